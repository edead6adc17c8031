"""Around every request: its trace, an id, a limit on the body, a line in the log, and an answer whatever happens."""

import asyncio
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paybill_runtime import clock
from paybill_runtime.problems import problem, unexpected
from paybill_runtime.telemetry import of_request

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
BODY_TIMEOUT_S = 30.0
_PROBES = {"/healthz", "/readyz"}


class _GoneError(Exception):
    """The client left before its request was complete."""


class EdgeMiddleware:
    """Handles what is the same for every route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with of_request(headers.get("traceparent")) as here:
            scope["paybill.request_id"] = clock.new_id()
            scope["paybill.traceparent"] = here
            answer = _Answer(send, here)
            began = time.perf_counter()
            try:
                await self._answer(scope, headers.get("content-length", ""), receive, answer)
            except _GoneError:
                log.info("%s %s was given up by its client", scope["method"], scope["path"])
            else:
                _note(scope, answer.status, time.perf_counter() - began)

    async def _answer(self, scope: Scope, length: str, receive: Receive, answer: "_Answer") -> None:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _body(length, receive)
        except TimeoutError:
            await problem(408, "too_slow", f"the whole body must come within {BODY_TIMEOUT_S:.0f} seconds")(
                scope, receive, answer.send
            )
            return
        try:
            if body is None:
                # The server reads on and drops the rest, so that a client that still sends gets to see this.
                await problem(413, "too_large", f"a body may have {MAX_BODY_BYTES} bytes at most")(
                    scope, receive, answer.send
                )
            else:
                await self._app(scope, _replay(body, receive), answer.send)
        except Exception as error:
            if answer.status:
                raise
            await unexpected(error)(scope, receive, answer.send)


class _Answer:
    """Sends the answer, and remembers how it began."""

    def __init__(self, send: Send, traceparent: str) -> None:
        self._send = send
        self._traceparent = traceparent.encode()
        self.status = 0

    async def send(self, message: Message) -> None:
        """Send one part of it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", []), (b"traceparent", self._traceparent)]
        await self._send(message)


def _note(scope: Scope, status: int, took_s: float) -> None:
    level = logging.DEBUG if scope["path"] in _PROBES else logging.INFO
    log.log(level, "%s %s: %d in %.1f ms", scope["method"], scope["path"], status, took_s * 1000)


async def _body(length: str, receive: Receive) -> bytes | None:
    """The whole body; None as soon as it is known to be too large. Raises _GoneError."""
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        return None
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _GoneError
        parts += message.get("body", b"")
        if len(parts) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
