"""HTTP callers of the agent benchmarks: few connections, each sends one request after the other."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httptools

from paybill_bench.servers import BenchmarkError

Body = Callable[[int, bytes], bytes]
"""Returns the body of a caller's request `number`, after the response to the one before (empty for the first)."""


class Caller:
    """One connection to a server. It reads a response completely before it sends the next request."""

    def __init__(self, port: int, path: str, headers: str) -> None:
        self._port, self._path, self._headers = port, path, headers
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._complete = False

    async def open(self) -> None:
        """Connects."""
        self._incoming, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    def close(self) -> None:
        """Closes the connection."""
        self._writer.close()

    async def call(self, body: bytes) -> bytes:
        """Returns the body of the response. Raises BenchmarkError for a status other than 200 to 202."""
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
            f"Accept: application/json, text/event-stream\r\n{self._headers}Content-Length: {len(body)}\r\n\r\n"
        )
        self._parts, self._complete = [], False
        self._parser = httptools.HttpResponseParser(self)
        self._writer.write(head.encode() + body)
        while not self._complete:
            data = await self._incoming.read(65536)
            if not data:
                raise BenchmarkError("a server closed the connection before it responded")
            self._parser.feed_data(data)
        response = b"".join(self._parts)
        if self._parser.get_status_code() > 202:  # noqa: PLR2004  # accepted
            raise BenchmarkError(f"a server responded {self._parser.get_status_code()}: {response[:300]!r}")
        return response

    def on_body(self, body: bytes) -> None:
        """Keeps a part of the response; called by the parser."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Ends the response; called by the parser."""
        self._complete = True


@dataclass
class Timed:
    """Calls of one round. milliseconds: of each call, sorted; seconds: of all of them together."""

    seconds: float
    milliseconds: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Returns calls per second."""
        return len(self.milliseconds) / self.seconds


async def timed_calls(callers: Sequence[Caller], bodies: Sequence[Body], amount: int) -> Timed:
    """Sends `amount` requests of each caller, all callers at once."""
    elapsed: list[float] = []

    async def send(caller: Caller, body: Body) -> None:
        response = b""
        for number in range(amount):
            request = body(number, response)
            begin = time.perf_counter()
            response = await caller.call(request)
            elapsed.append((time.perf_counter() - begin) * 1000)

    begin = time.perf_counter()
    await asyncio.gather(*(send(caller, body) for caller, body in zip(callers, bodies, strict=True)))
    return Timed(time.perf_counter() - begin, sorted(elapsed))
