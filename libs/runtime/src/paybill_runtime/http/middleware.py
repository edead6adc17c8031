"""Middleware of every request: trace, admission control, bounded body, log line and error response."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paybill_runtime.database.dry_run import request_dry_run
from paybill_runtime.errors import OverloadedError
from paybill_runtime.http.limits import PROBE_RESERVE, PROBES, ConcurrencyLimit
from paybill_runtime.http.problems import problem, unexpected
from paybill_runtime.telemetry import ERROR_TYPE, annotate, meter, record_failure, request_span

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
BODY_TIMEOUT_S = 30.0
SMALL_BODY_BYTES = 64 * 1024
MAX_LARGE_BODIES = 32
"""Concurrent bodies above the small size: 32 MiB in total, instead of one MiB for each connection."""
_SAFE = {"GET", "HEAD", "OPTIONS"}
_DURATION = meter.create_histogram(
    "http.server.request.duration",
    "s",
    "Duration of HTTP server requests.",
    explicit_bucket_boundaries_advisory=(
        *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    ),
)
"""The metric of OpenTelemetry's semantic conventions, which FastAPI records for the requests that it receives."""


class _ClientDisconnectedError(Exception):
    """The client disconnected before its request was complete."""


def ignore(_: Scope) -> None:
    """Does nothing."""


class RequestMiddleware:
    """The ASGI middleware around all routes.

    limit: the slots of requests. mismatch: returns the reason why nothing may be changed now; empty when it may.
    fast_route: the path when this is around a fast route, which FastAPI does not measure; its successes are no log
    lines, because it logs them by groups. body_refused: is called for a request whose body is too large.
    """

    def __init__(
        self,
        app: ASGIApp,
        limit: ConcurrencyLimit,
        mismatch: Callable[[], str] = str,
        fast_route: str = "",
        body_refused: Callable[[Scope], None] = ignore,
    ) -> None:
        self._app = app
        self._mismatch = mismatch
        self._limit = limit
        self._large = ConcurrencyLimit(MAX_LARGE_BODIES)
        self._fast_route = fast_route
        self._body_refused = body_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        with request_span(
            scope["method"], self._fast_route, headers.get(b"traceparent", b"").decode("latin-1")
        ) as traceparent:
            scope["paybill.traceparent"] = traceparent
            response = _Response(send, traceparent, has_body=scope["method"] != "HEAD")
            began = time.perf_counter()
            try:
                await self._respond(scope, headers.get(b"content-length", b"").decode("latin-1"), receive, response)
            except _ClientDisconnectedError:
                log.info("%s %s: the client disconnected", scope["method"], scope["path"])
            except OverloadedError:
                await self._limit.overloaded_response()(scope, receive, response.send)
            else:
                self._log(scope, response.status, time.perf_counter() - began)
            finally:
                request_dry_run(requested=False)
            if self._fast_route:
                self._measure(scope, response.status, time.perf_counter() - began)

    async def _respond(self, scope: Scope, length: str, receive: Receive, response: "_Response") -> None:
        if scope["method"] not in _SAFE and self._mismatch():
            # A change made now would be lost with the copy that has to be replaced.
            await problem(503, "log_and_state_disagree", self._mismatch())(scope, receive, response.send)
            return
        reserve = PROBE_RESERVE if scope["path"] in PROBES else 0
        if length:
            # Checked before the body is read in vain; used only after it, so that a slow body uses no slot.
            self._limit.check(reserve)
        with ExitStack() as held:
            try:
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    body = await _body(length, receive, held, self._large)
            except TimeoutError:
                await problem(408, "too_slow", f"the whole body must arrive within {BODY_TIMEOUT_S:.0f} seconds")(
                    scope, receive, response.send
                )
                return
            if body is None:
                self._body_refused(scope)
                # The server reads and drops the rest, so that a client that is still sending receives this response.
                await problem(413, "too_large", f"a body may have {MAX_BODY_BYTES} bytes at most")(
                    scope, receive, response.send
                )
                return
            self._limit.acquire(reserve)
            held.callback(self._limit.release)
            if scope["method"] == "HEAD":
                # The route of GET answers, and its body is not sent (RFC 9110, section 9.3.2).
                scope = {**scope, "method": "GET"}
            try:
                await self._app(scope, _replay(body, receive), response.send)
            except Exception as error:
                if response.status:
                    raise
                await unexpected(error)(scope, receive, response.send)

    def _log(self, scope: Scope, status: int, took_s: float) -> None:
        unimportant = scope["path"] in PROBES or (self._fast_route and status < HTTPStatus.BAD_REQUEST)
        level = logging.DEBUG if unimportant else logging.INFO
        log.log(level, "%s %s: %d in %.1f ms", scope["method"], scope["path"], status, took_s * 1000)

    def _measure(self, scope: Scope, status: int, took_s: float) -> None:
        attributes: dict[str, str | int] = {
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
            "http.request.method": scope["method"],
            "http.route": self._fast_route,
        }
        if status:
            attributes["http.response.status_code"] = status
        annotate(attributes)
        if not status or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            attributes[ERROR_TYPE] = str(status or "incomplete_response")
            record_failure(str(attributes[ERROR_TYPE]))
        _DURATION.record(took_s, attributes)


class _Response:
    """Sends the response with a traceparent header, and stores its status. has_body: False sends the headers only."""

    def __init__(self, send: Send, traceparent: str, *, has_body: bool) -> None:
        self._send = send
        self._has_body = has_body
        self._traceparent = traceparent.encode()
        self.status = 0

    async def send(self, message: Message) -> None:
        """Sends one part of it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", []), (b"traceparent", self._traceparent)]
        elif not self._has_body:
            message["body"] = b""
        await self._send(message)


async def _body(length: str, receive: Receive, held: ExitStack, large_bodies: ConcurrencyLimit) -> bytes | None:
    """Returns the body; None when it is too large. Raises _ClientDisconnectedError, OverloadedError.

    A large body uses a slot of `large_bodies` until `held` ends.
    """
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
            large_bodies.acquire()
            held.callback(large_bodies.release)
            large = True
        if not message.get("more_body"):
            return bytes(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that yields the body that was already read."""
    replayed = False

    async def again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
