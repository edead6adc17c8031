"""HTTP server: uvicorn with httptools, with connections that are bounded in number and closed when a client is slow."""

import asyncio
import resource
import socket
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from paybill_runtime import clock
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.http.problems import problem
from paybill_runtime.http.request_head import MAX_HEAD_BYTES, check
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
MAX_INCOMPLETE_HEAD_BYTES = 2 * MAX_HEAD_BYTES
"""A larger incomplete head ends its connection without a response; the parser has no limit."""
MAX_UNREAD_BYTES = 512 * 1024
"""Bytes that may arrive for a request before the application receives any more of its body. uvicorn stops reading at
64 kB of body and one more read of 256 kB; more than that is something else, such as trailers without an end."""
_CONNECTION = "paybill.connection"


class Connections:
    """The connections of one server. Each waits while its request is missing or incomplete.

    When there are too many, the one that waits longest is closed, so that silent or slow clients take nothing from the
    others, however many there are.
    """

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._amount = 0
        self._waiting: OrderedDict[Connection, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, connection: "Connection") -> None:
        """Counts a new connection; closes it or a slow one when there are too many."""
        self._amount += 1
        self.wait(connection)
        if self._amount > MAX_CONNECTIONS:
            oldest, since = next(iter(self._waiting.items()))
            evicted = oldest if asyncio.get_running_loop().time() - since > SLOW_CLIENT_S else connection
            self.proceed(evicted)
            evicted.transport.abort()

    def closed(self, connection: "Connection") -> None:
        """Forgets a connection."""
        self._amount -= 1
        self.proceed(connection)

    def wait(self, connection: "Connection") -> None:
        """Starts the timeout of a connection; all share one timer."""
        loop = asyncio.get_running_loop()
        self._waiting[connection] = loop.time()
        self._waiting.move_to_end(connection)
        if self._timer is None:
            self._timer = loop.call_later(self._idle_s, self._close_idle)

    def proceed(self, connection: "Connection") -> None:
        """Ends the timeout of a connection."""
        self._waiting.pop(connection, None)

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._waiting:
            connection, since = next(iter(self._waiting.items()))
            left_s = since + self._idle_s - loop.time()
            if left_s > 0:
                self._timer = loop.call_later(left_s, self._close_idle)
                return
            if connection.reads_body or connection.transport.get_write_buffer_size():
                self.wait(connection)  # the middleware limits the time of a body; a response may take long to download
            else:
                self.proceed(connection)
                connection.transport.close()


class GatheredWrites:
    """Transport that writes the parts of one turn of the event loop together.

    uvicorn writes the head and the body of a response one after the other, each of which costs a system call here and
    another one at the client.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """Returns everything else of the transport."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Writes bytes at the end of this turn."""
        if not self._parts:
            asyncio.get_running_loop().call_soon(self.flush)
        self._parts.append(data)

    def close(self) -> None:
        """Closes the transport after what was written."""
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Writes what this turn has written so far."""
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(b"".join(parts))


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol. What it cannot parse is refused as a problem, like everything else."""

    @override
    def send_400_response(self, msg: str) -> None:
        with log_context("", child(None)) as traceparent:
            refusal = problem(400, "bad_request", "this is no valid HTTP/1.1 request", {"traceparent": traceparent})
        headers = [*self.server_state.default_headers, *refusal.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n%b\r\n%b" % (head, bytes(refusal.body)))
        self.transport.close()


class Connection(asyncio.Protocol):
    """The connection of one client. It passes everything on to uvicorn's protocol, and closes clients without end.

    `ConnectionMiddleware` calls `begin`, `received` and `end` for each request.
    """

    def __init__(self, connections: Connections, *, app_state: dict[str, Any], **uvicorn_arguments: Any) -> None:
        self.transport: asyncio.Transport
        self.reads_body = False
        self._connections = connections
        self._protocol = Protocol(app_state={**app_state, _CONNECTION: self}, **uvicorn_arguments)
        self._requests = 0
        self._begun: Scope | None = None
        self._unread_bytes = 0
        self._writes: GatheredWrites
        self._half_closed = False

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # the transport of TCP
        self.transport = transport
        self._writes = GatheredWrites(transport)
        self._protocol.connection_made(self._writes)  # type: ignore[arg-type]  # the transport of TCP
        self._connections.opened(self)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.closed(self)
        self._protocol.connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        # Checked before the bytes are parsed: a head that was completed by the last ones has begun by now.
        if self._unread_bytes > (MAX_UNREAD_BYTES if self._requests else MAX_INCOMPLETE_HEAD_BYTES):
            self.transport.abort()
            return
        self._protocol.data_received(data)
        if self._requests and not self.reads_body:
            self.transport.pause_reading()  # the next request waits for the response to this one
        if self._requests or self._protocol.scope is not self._begun:
            self._unread_bytes += len(data)  # otherwise the rest of a body whose request is already answered

    @override
    def eof_received(self) -> bool:
        """Keeps the connection of a client that sends no more, until its complete request is answered."""
        self._writes.flush()
        cycle: RequestResponseCycle | None = self._protocol.cycle
        self._half_closed = cycle is not None and not cycle.more_body and not cycle.response_complete
        return self._half_closed

    @override
    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    @override
    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def begin(self, scope: Scope) -> None:
        """Notes that the head of a request is complete; its body may not be."""
        self._requests += 1
        self._begun = scope
        self._unread_bytes = 0
        self.reads_body = True

    def received(self, *, complete: bool) -> None:
        """Notes that the application received a part of the body."""
        self._unread_bytes = 0
        if complete and self.reads_body:
            self.reads_body = False
            self._connections.proceed(self)

    def end(self, *, refused: bool) -> None:
        """Notes that a request is answered. refused: nothing is read for REFUSED_PAUSE_S."""
        self._requests -= 1
        if self.transport.is_closing():
            return
        if self._half_closed:
            self._writes.close()
            return
        if refused:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(REFUSED_PAUSE_S, self.transport.resume_reading)
        else:
            self.transport.resume_reading()
        if not self._requests:
            self.reads_body = False
            self._unread_bytes = 0
            self._connections.wait(self)


class ConnectionMiddleware:
    """Outermost ASGI middleware: keeps a connection informed of its requests, and refuses heads that are ambiguous."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        connection: Connection = scope["state"][_CONNECTION]
        head = check(scope)
        status = 0

        async def receive_part() -> Message:
            message = await receive()
            connection.received(complete=not message.get("more_body"))
            return message

        async def send_part(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # Without the end of a body in chunks the next head could not be bounded.
                if head.closes or (head.chunked and connection.reads_body):
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        connection.begin(scope)
        try:
            await (head.refusal or self._app)(scope, receive_part, send_part)
        finally:
            connection.end(refused=status == HTTPStatus.SERVICE_UNAVAILABLE)


class Server(uvicorn.Server):
    """uvicorn's server. It handles no signals: the process does."""

    def __init__(self, app: ASGIApp, idle_s: int) -> None:
        protocol = partial(Connection, Connections(idle_s))
        config = uvicorn.Config(
            ConnectionMiddleware(app),
            http=protocol,  # type: ignore[arg-type]  # a factory is enough
            ws="none",
            log_config=None,
            access_log=False,
            timeout_keep_alive=idle_s,
            timeout_graceful_shutdown=5,
            lifespan="off",
        )
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Makes `serve` close all connections and return."""
        self.should_exit = True
        self._stopping.set()

    @override
    async def main_loop(self) -> None:
        """Refreshes the Date header each second; uvicorn's own loop wakes an idle process ten times a second."""
        while not await self.on_tick(0):
            await clock.wait_for_event(self._stopping, 1.0)

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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
