"""Where a service listens, and how it bears more clients, or slower ones, than it has places for."""

import asyncio
import resource
import socket

from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from paybill_runtime.errors import ConfigurationError

MAX_CONNECTIONS = 2000
"""A burst of new clients within a second at three times what a service can do; they hold 60 MB at most."""
MAX_FILES = MAX_CONNECTIONS + 100
"""Many systems let a process open 1,024 unless it asks for more, which it may."""
IDLE_S = 30
"""How long a client may take to ask: from its connection, or its last answer, to the end of its request's head."""
SLOW_S = 1.0
"""Who takes longer than this makes room for others when all places are taken."""


class Connection(H11Protocol):
    """One client's. When all places are taken, one whose client is slow to ask makes room.

    So clients that are silent or slow take nothing from those that ask, however many there are.
    """

    waits_since = 0.0

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.waits_since = self.loop.time()
        # uvicorn starts this clock after the first answer only.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if len(self.connections) > MAX_CONNECTIONS:
            leaving = next((other for other in self.connections if isinstance(other, Connection) and other.slow), self)
            self.connections.discard(leaving)
            leaving.transport.abort()

    @property
    def slow(self) -> bool:
        """Whether its client is still to ask, or to end what it asks, so that nothing is being done for it."""
        cycle: RequestResponseCycle | None = self.cycle
        asks = cycle is None or cycle.response_complete or cycle.more_body
        return asks and self.loop.time() - self.waits_since > SLOW_S

    @override
    def on_response_complete(self) -> None:
        self.waits_since = self.loop.time()
        super().on_response_complete()

    @override
    def data_received(self, data: bytes) -> None:
        # Without stopping the clock, which uvicorn does: a head that comes drop by drop gets no more time than none.
        self.conn.receive_data(data)
        self.handle_events()


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
