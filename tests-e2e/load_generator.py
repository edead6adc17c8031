"""Open-loop load generator: requests are due at equal intervals, whether or not earlier ones were answered.

Kept minimal, since it shares the machine with the service under load: no task and no parser for each request.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf

ACCEPTED = {200, 202}
CONNECTIONS = 1000
"""Connections of an open loop. A request waits for a free one; without any until the end, it is never sent."""
_TICK_S = 0.001
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Response:
    """One response; 0 when the connection ended instead. due_s: since the due time; sent_s: since it was sent."""

    status: int
    retry_after: str
    due_s: float
    sent_s: float


@dataclass
class Route:
    """One route of one process.

    build: returns the request with this number and its name; an empty name is taken from the response.
    accepted: names of all accepted requests. unknown: number of responses with an unknown outcome.
    """

    pid: int
    port: int
    api_key: str
    build: Callable[[int], tuple[bytes, str]]
    accepted: list[str] = field(default_factory=list)
    unknown: int = 0
    idle: "list[_Connection]" = field(default_factory=list)

    async def closed_loop(
        self, numbers: Iterator[int], seconds: float, callers: int, most: float = inf
    ) -> list[Response]:
        """Runs a closed loop: each of `callers` sends the next request after each response."""
        return await _Load(self, numbers, callers, most).run(seconds)

    async def open_loop(self, numbers: Iterator[int], seconds: float, per_s: float) -> tuple[list[Response], int]:
        """Runs an open loop of `per_s` requests a second; returns responses and the number of unsent requests."""
        most = int(seconds * per_s)
        responses = await _Load(self, numbers, CONNECTIONS, most, per_s).run(seconds)
        return responses, most - len(responses)

    def close(self) -> None:
        for connection in self.idle:
            connection.transport.close()


class _Load:
    """One load. per_s: requests due per second; all at once by default."""

    def __init__(self, route: Route, numbers: Iterator[int], connections: int, most: float, per_s: float = inf) -> None:
        self._route = route
        self._numbers = numbers
        self._free = connections
        self._most = most
        self._per_s = per_s
        self._loop = asyncio.get_running_loop()
        self._begin = 0.0
        self._over = False
        self._due = 0.0
        self._sent = 0
        self._opening: set[asyncio.Task] = set()
        self._responses: list[Response] = []

    async def run(self, seconds: float) -> list[Response]:
        self._begin = self._loop.time()
        passed = 0.0
        while self._sent < self._most and passed < seconds:
            await asyncio.sleep(_TICK_S)
            passed = self._loop.time() - self._begin
            self._due = self._most if self._per_s == inf else min(self._most, passed * self._per_s + 1)
            while self._free and self._sent + len(self._opening) < self._due:
                self._free -= 1
                if self._route.idle:
                    self.next(self._route.idle.pop())
                else:
                    task = self._loop.create_task(self._open())
                    self._opening.add(task)
                    task.add_done_callback(self._opening.discard)
        # Requests due at the final tick are sent by connections that are being opened.
        await asyncio.gather(*self._opening)
        self._over = True
        async with asyncio.timeout(_TIMEOUT_S):
            while len(self._responses) < self._sent:  # noqa: ASYNC110  # an event for each would cost too much
                await asyncio.sleep(_TICK_S)
        return self._responses

    async def _open(self) -> None:
        try:
            _, connection = await self._loop.create_connection(_Connection, "127.0.0.1", self._route.port)
        except OSError:
            self._free += 1
        else:
            self.next(connection)

    def next(self, connection: "_Connection") -> None:
        """Sends the oldest due request, or returns the connection to the pool."""
        now = self._loop.time()
        if connection.transport.is_closing() or self._over or self._sent >= self._due:
            self._free += 1
            if not connection.transport.is_closing():
                self._route.idle.append(connection)
            return
        connection.due, connection.sent = self._begin + self._sent / self._per_s, now
        self._sent += 1
        request, connection.name = self._route.build(next(self._numbers))
        connection.load = self
        connection.transport.write(request)

    def on_response(self, connection: "_Connection", status: int, retry_after: str, content: bytes) -> None:
        """Records the response, and reuses the connection."""
        now = self._loop.time()
        self._responses.append(Response(status, retry_after, now - connection.due, now - connection.sent))
        if status in ACCEPTED:
            self._route.accepted.append(connection.name or json.loads(content)["id"])
        self._route.unknown += b"outcome_unknown" in content
        self.next(connection)


class _Connection(asyncio.Protocol):
    """One persistent connection."""

    transport: asyncio.Transport
    load: _Load | None = None
    name = ""
    due = sent = 0.0
    _received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, content = self._received.partition(b"\r\n\r\n")
        if end and len(content) >= int(_field(head, b"content-length")):
            self._received = b""
            self._end(int(head[9:12]), _field(head, b"retry-after"), content)

    def connection_lost(self, _: Exception | None) -> None:
        self._end(0, "", b"")

    def _end(self, status: int, retry_after: str, content: bytes) -> None:
        load, self.load = self.load, None
        if load:
            load.on_response(self, status, retry_after, content)


def _field(head: bytes, name: bytes) -> str:
    """Returns the value of a header field; empty when it is absent."""
    _, found, rest = head.lower().partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip().decode() if found else ""
