"""Where a service listens, and how it bears more clients, or slower ones, than it has places for."""

import asyncio
import socket
from collections.abc import Iterator

from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from paybill_runtime.errors import ConfigurationError

MAX_CONNECTIONS = 900
"""Below the 1,024 open files that most systems allow a process, with room for its own."""
IDLE_S = 30
"""How long a client may take to ask: from its connection, or its last answer, to the end of its request's head."""


class Connection(H11Protocol):
    """One client's. When all places are taken, one whose client has not finished asking makes room.

    So clients that are silent or slow take nothing from those that ask, however many there are.
    """

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        # uvicorn starts this clock after the first answer only.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if len(self.connections) > MAX_CONNECTIONS:
            leaving = next((other for other in self._others() if _asks(other)), self)
            self.connections.discard(leaving)
            leaving.transport.abort()

    def _others(self) -> "Iterator[Connection]":
        return (other for other in self.connections if isinstance(other, Connection) and other is not self)

    @override
    def data_received(self, data: bytes) -> None:
        # Without stopping the clock, which uvicorn does: a head that comes drop by drop gets no more time than none.
        self.conn.receive_data(data)
        self.handle_events()


def _asks(connection: H11Protocol) -> bool:
    """Whether its client is still to ask, or to end what it asks, so that nothing is being done for it."""
    cycle: RequestResponseCycle | None = connection.cycle
    return cycle is None or cycle.response_complete or cycle.more_body


def listener(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigurationError."""
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
