"""Around every request: its trace, an id, a place or a refusal, a line in the log, and an answer whatever happens."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paybill_runtime import clock
from paybill_runtime.errors import OverloadedError
from paybill_runtime.http.limits import PROBE_RESERVE, PROBES, ConcurrencyLimit
from paybill_runtime.http.problems import problem, unexpected
from paybill_runtime.telemetry import request_span

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
BODY_TIMEOUT_S = 30.0
SMALL_BODY_BYTES = 64 * 1024
MAX_LARGE_BODIES = 32
"""Bodies above the small size that are held at once: 32 MiB for all, not one MiB for each connection."""
_SAFE = {"GET", "HEAD", "OPTIONS"}


class _ClientDisconnectedError(Exception):
    """The client left before its request was complete."""


class RequestMiddleware:
    """Handles what is the same for every route.

    busy: the places for requests. broken: why nothing may be changed now; empty when it may.
    """

    def __init__(self, app: ASGIApp, limit: ConcurrencyLimit, mismatch: Callable[[], str] = str) -> None:
        self._app = app
        self._mismatch = mismatch
        self._limit = limit
        self._large = ConcurrencyLimit(MAX_LARGE_BODIES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        with request_span(scope["method"], scope["path"], headers.get(b"traceparent", b"").decode("latin-1")) as here:
            scope["paybill.request_id"] = clock.new_id()
            scope["paybill.traceparent"] = here
            answer = _Response(send, here)
            began = time.perf_counter()
            try:
                await self._answer(scope, headers.get(b"content-length", b"").decode("latin-1"), receive, answer)
            except _ClientDisconnectedError:
                log.info("%s %s was given up by its client", scope["method"], scope["path"])
            except OverloadedError:
                await self._limit.overloaded_response()(scope, receive, answer.send)
            else:
                _note(scope, answer.status, time.perf_counter() - began)

    async def _answer(self, scope: Scope, length: str, receive: Receive, answer: "_Response") -> None:
        if scope["method"] not in _SAFE and self._mismatch():
            # What was taken now would be gone with the copy that has to be replaced.
            await problem(503, "log_and_state_disagree", self._mismatch())(scope, receive, answer.send)
            return
        more = PROBE_RESERVE if scope["path"] in PROBES else 0
        # Looked at before, so that no body is read in vain; taken after, so that one that comes slowly holds no place.
        self._limit.check(more)
        with ExitStack() as held:
            try:
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    body = await _body(length, receive, lambda: held.enter_context(self._large.slot()))
            except TimeoutError:
                await problem(408, "too_slow", f"the whole body must come within {BODY_TIMEOUT_S:.0f} seconds")(
                    scope, receive, answer.send
                )
                return
            if body is None:
                # The server reads on and drops the rest, so that a client that still sends gets to see this.
                await problem(413, "too_large", f"a body may have {MAX_BODY_BYTES} bytes at most")(
                    scope, receive, answer.send
                )
                return
            held.enter_context(self._limit.slot(more))
            try:
                await self._app(scope, _replay(body, receive), answer.send)
            except Exception as error:
                if answer.status:
                    raise
                await unexpected(error)(scope, receive, answer.send)


class _Response:
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
    level = logging.DEBUG if scope["path"] in PROBES else logging.INFO
    log.log(level, "%s %s: %d in %.1f ms", scope["method"], scope["path"], status, took_s * 1000)


async def _body(length: str, receive: Receive, take_large: Callable[[], None]) -> bytes | None:
    """The whole body; None as soon as it is known to be too large. Raises _GoneError, and what `take_large` raises."""
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        return None
    parts = bytearray()
    large = False
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _ClientDisconnectedError
        parts += message.get("body", b"")
        if len(parts) > MAX_BODY_BYTES:
            return None
        if len(parts) > SMALL_BODY_BYTES and not large:
            take_large()
            large = True
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
