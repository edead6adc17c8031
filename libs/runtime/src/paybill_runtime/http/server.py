"""HTTP connections: bounded in number, with eviction of slow clients and early refusal under overload."""

import asyncio
import re
import resource
import socket
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from paybill_runtime.errors import ConfigurationError
from paybill_runtime.http.fast_route import FastRouteRequest, FastRoutes, match_fast_route
from paybill_runtime.http.limits import PROBES, ConcurrencyLimit
from paybill_runtime.telemetry import child, log_context

MAX_CONNECTIONS = 2000
"""A burst of new clients within a second at three times a service's capacity; they use 60 MB at most."""
MAX_FILES = MAX_CONNECTIONS + 100
"""Many systems limit a process to 1,024 open files unless it raises the limit, which it may."""
IDLE_S = 30
"""Timeout of a client from its connection, or its last response, to the end of the head of its request."""
SLOW_CLIENT_S = 1.0
"""A client that takes longer is closed first when there are too many connections."""
REFUSED_PAUSE_S = 0.25
"""Pause of reads from a connection after a 503. Clients that retried at once on a thousand connections were refused
15,000 times a second, which left a seventh of the capacity for admitted requests."""
_LINE = re.compile(rb"(?:POST|PUT|PATCH|DELETE|GET) (\S+) HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,7}) *(?=\r\n)")


class Connection(H11Protocol):
    """The connection of one client. limit: the slots of requests, of all connections.

    When there are too many connections, one with a slow client is closed, so that silent or slow clients take nothing
    from the others, however many there are.
    """

    def __init__(self, *args: Any, limit: ConcurrencyLimit, fast_routes: FastRoutes, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limit = limit
        self._fast_routes = fast_routes
        self._responding = False
        self._closing = False
        self._buffered = b""
        self.waits_since = 0.0

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        # uvicorn starts this timeout only after the first response.
        self._wait()
        if len(self.connections) > MAX_CONNECTIONS:
            evicted = next((other for other in self.connections if isinstance(other, Connection) and other.slow), self)
            self.connections.discard(evicted)
            evicted.transport.abort()

    @property
    def _awaits_request(self) -> bool:
        """True while the request is missing or incomplete, so that nothing is in progress for the client."""
        cycle: RequestResponseCycle | None = self.cycle
        return not self._responding and (cycle is None or cycle.response_complete or cycle.more_body)

    @property
    def slow(self) -> bool:
        """True when the client is slow to send its request."""
        return self._awaits_request and self.loop.time() - self.waits_since > SLOW_CLIENT_S

    @override
    def data_received(self, data: bytes) -> None:
        if self._responding:
            self._buffered += data
            self.flow.pause_reading()
            return
        if self._idle():
            if self._limit.full and _is_whole(data):
                self._refuse()
                return
            request = match_fast_route(data, self._fast_routes)
            if request is not None:
                self._begin(request)
                return
        # Without stopping the timeout, as uvicorn would: a head that arrives byte by byte gets no additional time.
        self.conn.receive_data(data)
        self.handle_events()

    def _begin(self, request: FastRouteRequest) -> None:
        """Answers a request without uvicorn, which waits for the task when it stops."""
        self._unset_keepalive_if_required()
        self._responding = True
        task = self.loop.create_task(self._answer(request))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer(self, request: FastRouteRequest) -> None:
        try:
            await request.call(self.server_state.default_headers)
        finally:
            # Without a response the endpoint failed, or the process stops: then the connection is closed.
            self._responding = False
            if request.response and not self.transport.is_closing():
                self.transport.write(request.response)
            if self._closing or not request.response:
                self.transport.close()
        if not self.transport.is_closing():
            self._wait()
            self.flow.resume_reading()
            buffered, self._buffered = self._buffered, b""
            if buffered:
                self.data_received(buffered)

    @override
    def shutdown(self) -> None:
        if self._responding:
            self._closing = True
        else:
            super().shutdown()

    @override
    def on_response_complete(self) -> None:
        self.waits_since = self.loop.time()
        super().on_response_complete()

    def _idle(self) -> bool:
        """Returns whether no request is in progress, and the client reads its responses."""
        cycle: RequestResponseCycle | None = self.cycle
        between = cycle is None or (cycle.response_complete and not cycle.more_body)
        begun = self.conn.trailing_data[0]
        return between and not begun and not self.flow.write_paused and not self.transport.is_closing()

    def _refuse(self) -> None:
        """Refuses like the middleware, but without parsing: that costs half as much as storing a webhook."""
        with log_context("", child(None)) as traceparent:
            response = self._limit.overloaded_response()
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"traceparent", traceparent.encode())]
        lines = [b"HTTP/1.1 503 Service Unavailable", *(name + b": " + value for name, value in headers)]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body))
        self._wait()
        self.flow.pause_reading()
        self.loop.call_later(REFUSED_PAUSE_S, self.flow.resume_reading)

    def _wait(self) -> None:
        self.waits_since = self.loop.time()
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)


def _is_whole(data: bytes) -> bool:
    """Returns whether this is exactly one request, without headers that need a parser."""
    head, _, body = data.partition(b"\r\n\r\n")
    line = _LINE.match(head + b"\r\n")
    if line is None or line[1].decode("latin-1") in PROBES:
        return False
    fields = head.lower() + b"\r\n"
    lengths = _LENGTH.findall(fields)
    plain = fields.count(b"\r\ncontent-length") == len(lengths) and b"\r\ntransfer-encoding" not in fields
    return plain and b"\r\nconnection:" not in fields and [len(body)] == ([int(n) for n in lengths] or [0])


def listener(host: str, port: int) -> socket.socket:
    """Returns a listening socket. Raises ConfigurationError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < MAX_FILES and (hard == resource.RLIM_INFINITY or hard >= MAX_FILES):
        resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, hard))
    # The protocol is explicit because asyncio turns off Nagle's delay (40 ms for a response) only then.
    server_socket = socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server_socket.bind((host, port))
        server_socket.listen()
    except OSError as error:
        server_socket.close()
        raise ConfigurationError(
            f"{host}:{port} cannot be bound ({error.strerror}); "
            "stop the process that uses it, or set PAYBILL_HTTP_HOST and PAYBILL_HTTP_PORT"
        ) from error
    return server_socket
