"""Where a service listens, and how it bears more clients, or slower ones, than it has places for."""

import asyncio
import re
import resource
import socket
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from paybill_runtime.errors import ConfigurationError
from paybill_runtime.http.fast_path import FastRequest, FastRoutes, parse_fast_request
from paybill_runtime.http.limits import PROBES, ConcurrencyLimit
from paybill_runtime.telemetry import child, log_context

MAX_CONNECTIONS = 2000
"""A burst of new clients within a second at three times what a service can do; they hold 60 MB at most."""
MAX_FILES = MAX_CONNECTIONS + 100
"""Many systems let a process open 1,024 unless it asks for more, which it may."""
IDLE_S = 30
"""How long a client may take to ask: from its connection, or its last answer, to the end of its request's head."""
SLOW_CLIENT_S = 1.0
"""Who takes longer than this makes room for others when all places are taken."""
REFUSED_PAUSE_S = 0.25
"""How long a connection is not listened to once it was refused. Whoever asks again at once, on a thousand connections,
was refused 15,000 times a second, and what had a place waited for all that: a seventh was kept of what can be."""
_LINE = re.compile(rb"(?:POST|PUT|PATCH|DELETE|GET) (\S+) HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,7}) *(?=\r\n)")


class Connection(H11Protocol):
    """One client's. busy: the places for requests, of all connections. doors: what is answered past uvicorn.

    When there are too many connections, one whose client is slow to ask makes room. So clients that are silent or slow
    take nothing from those that ask, however many there are.
    """

    def __init__(self, *args: Any, limit: ConcurrencyLimit, fast_routes: FastRoutes, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limit = limit
        self._fast_routes = fast_routes
        self._answering = False
        self._ends = False
        self._later = b""
        self.waits_since = 0.0

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        # uvicorn starts this clock after the first answer only.
        self._wait()
        if len(self.connections) > MAX_CONNECTIONS:
            leaving = next((other for other in self.connections if isinstance(other, Connection) and other.slow), self)
            self.connections.discard(leaving)
            leaving.transport.abort()

    @property
    def _awaits_request(self) -> bool:
        """Whether its client is still to ask, or to end what it asks, so that nothing is being done for it."""
        cycle: RequestResponseCycle | None = self.cycle
        return not self._answering and (cycle is None or cycle.response_complete or cycle.more_body)

    @property
    def slow(self) -> bool:
        """Whether its client takes long to ask."""
        return self._awaits_request and self.loop.time() - self.waits_since > SLOW_CLIENT_S

    @override
    def data_received(self, data: bytes) -> None:
        if self._answering:
            self._later += data
            self.flow.pause_reading()
            return
        if self._idle():
            if self._limit.full and _is_whole(data):
                self._refuse()
                return
            request = parse_fast_request(data, self._fast_routes)
            if request is not None:
                self._begin(request)
                return
        # Without stopping the clock, which uvicorn does: a head that comes drop by drop gets no more time than none.
        self.conn.receive_data(data)
        self.handle_events()

    def _begin(self, request: FastRequest) -> None:
        """Have it answered past uvicorn, which waits for the task when it stops."""
        self._unset_keepalive_if_required()
        self._answering = True
        task = self.loop.create_task(self._answer(request))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer(self, request: FastRequest) -> None:
        try:
            await request.call(self.server_state.default_headers)
        finally:
            # Without an answer there was a fault, or we are stopping: then the connection ends.
            self._answering = False
            if request.response and not self.transport.is_closing():
                self.transport.write(request.response)
            if self._ends or not request.response:
                self.transport.close()
        if not self.transport.is_closing():
            self._wait()
            self.flow.resume_reading()
            later, self._later = self._later, b""
            if later:
                self.data_received(later)

    @override
    def shutdown(self) -> None:
        if self._answering:
            self._ends = True
        else:
            super().shutdown()

    @override
    def on_response_complete(self) -> None:
        self.waits_since = self.loop.time()
        super().on_response_complete()

    def _idle(self) -> bool:
        """Whether it is between two requests, and its client takes what it is answered."""
        cycle: RequestResponseCycle | None = self.cycle
        between = cycle is None or (cycle.response_complete and not cycle.more_body)
        begun = self.conn.trailing_data[0]
        return between and not begun and not self.flow.write_paused and not self.transport.is_closing()

    def _refuse(self) -> None:
        """As the middleware does, but unparsed: to parse a webhook for nothing costs half of what keeping it does."""
        with log_context("", child(None)) as here:
            answer = self._limit.overloaded_response()
        headers = [*self.server_state.default_headers, *answer.raw_headers, (b"traceparent", here.encode())]
        lines = [b"HTTP/1.1 503 Service Unavailable", *(name + b": " + value for name, value in headers)]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(answer.body))
        self._wait()
        self.flow.pause_reading()
        self.loop.call_later(REFUSED_PAUSE_S, self.flow.resume_reading)

    def _wait(self) -> None:
        self.waits_since = self.loop.time()
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)


def _is_whole(data: bytes) -> bool:
    """Whether this is one request from its first byte to its last, without anything that has to be looked at closer."""
    head, _, body = data.partition(b"\r\n\r\n")
    line = _LINE.match(head + b"\r\n")
    if line is None or line[1].decode("latin-1") in PROBES:
        return False
    fields = head.lower() + b"\r\n"
    lengths = _LENGTH.findall(fields)
    plain = fields.count(b"\r\ncontent-length") == len(lengths) and b"\r\ntransfer-encoding" not in fields
    return plain and b"\r\nconnection:" not in fields and [len(body)] == ([int(n) for n in lengths] or [0])


def listener(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigurationError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < MAX_FILES and (hard == resource.RLIM_INFINITY or hard >= MAX_FILES):
        resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, hard))
    # The protocol is named because asyncio turns Nagle's delay (40 ms an answer) off only where it sees it named.
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen()
    except OSError as error:
        made.close()
        raise ConfigurationError(
            f"{host}:{port} cannot be listened on ({error.strerror}); "
            "stop what uses it, or set PAYBILL_HTTP_HOST and PAYBILL_HTTP_PORT"
        ) from error
    return made
