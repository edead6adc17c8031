"""Presses a service: requests are due at even distances, whether or not earlier ones were answered.

As bare as can be, for it shares the machine with what it presses: no task and no parser for each request.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf

YES = {200, 202}
CONNECTIONS = 1000
"""Of whoever sends. A request waits for one that is free; when none is until the end, it is never sent."""
_TICK_S = 0.001
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; 0 when the connection ended instead. due_s: since it was due; sent_s: since it was sent."""

    status: int
    retry_after: str
    due_s: float
    sent_s: float


@dataclass
class Door:
    """One route of one process.

    ask: the request with this number, and under which name it can be found again; none when the answer says that.
    accepted: the names of all that it said yes to. unknown: how often it could not say whether.
    """

    pid: int
    port: int
    api_key: str
    ask: Callable[[int], tuple[bytes, str]]
    accepted: list[str] = field(default_factory=list)
    unknown: int = 0
    idle: "list[_Caller]" = field(default_factory=list)

    async def answers(self, numbers: Iterator[int], seconds: float, callers: int, most: float = inf) -> list[Answer]:
        """What callers hear who ask again as soon as they were answered."""
        return await _Press(self, numbers, callers, most).run(seconds)

    async def pressed(self, numbers: Iterator[int], seconds: float, per_s: float) -> tuple[list[Answer], int]:
        """What comes of so many requests a second, and how many of them were never sent."""
        most = int(seconds * per_s)
        answers = await _Press(self, numbers, CONNECTIONS, most, per_s).run(seconds)
        return answers, most - len(answers)

    def close(self) -> None:
        for caller in self.idle:
            caller.transport.close()


class _Press:
    """One load. per_s: how many are due in a second; all at once when not given."""

    def __init__(self, door: Door, numbers: Iterator[int], connections: int, most: float, per_s: float = inf) -> None:
        self._door = door
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
        self._answers: list[Answer] = []

    async def run(self, seconds: float) -> list[Answer]:
        self._begin = self._loop.time()
        passed = 0.0
        while self._sent < self._most and passed < seconds:
            await asyncio.sleep(_TICK_S)
            passed = self._loop.time() - self._begin
            self._due = self._most if self._per_s == inf else min(self._most, passed * self._per_s + 1)
            while self._free and self._sent + len(self._opening) < self._due:
                self._free -= 1
                if self._door.idle:
                    self.next(self._door.idle.pop())
                else:
                    task = self._loop.create_task(self._open())
                    self._opening.add(task)
                    task.add_done_callback(self._opening.discard)
        # What was due in the last moment is sent, too, by connections that are on their way.
        await asyncio.gather(*self._opening)
        self._over = True
        async with asyncio.timeout(_PATIENCE_S):
            while len(self._answers) < self._sent:  # noqa: ASYNC110  # an event for each would press us
                await asyncio.sleep(_TICK_S)
        return self._answers

    async def _open(self) -> None:
        try:
            _, caller = await self._loop.create_connection(_Caller, "127.0.0.1", self._door.port)
        except OSError:
            self._free += 1
        else:
            self.next(caller)

    def next(self, caller: "_Caller") -> None:
        """Send what is due longest, or put the connection aside when nothing is."""
        now = self._loop.time()
        if caller.transport.is_closing() or self._over or self._sent >= self._due:
            self._free += 1
            if not caller.transport.is_closing():
                self._door.idle.append(caller)
            return
        caller.due, caller.sent = self._begin + self._sent / self._per_s, now
        self._sent += 1
        request, caller.name = self._door.ask(next(self._numbers))
        caller.press = self
        caller.transport.write(request)

    def answered(self, caller: "_Caller", status: int, retry_after: str, content: bytes) -> None:
        """Note what came back, and use the connection again."""
        now = self._loop.time()
        self._answers.append(Answer(status, retry_after, now - caller.due, now - caller.sent))
        if status in YES:
            self._door.accepted.append(caller.name or json.loads(content)["id"])
        self._door.unknown += b"outcome_unknown" in content
        self.next(caller)


class _Caller(asyncio.Protocol):
    """One connection, used again and again."""

    transport: asyncio.Transport
    press: _Press | None = None
    name = ""
    due = sent = 0.0
    _said = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._said += data
        head, end, content = self._said.partition(b"\r\n\r\n")
        if end and len(content) >= int(_field(head, b"content-length")):
            self._said = b""
            self._end(int(head[9:12]), _field(head, b"retry-after"), content)

    def connection_lost(self, _: Exception | None) -> None:
        self._end(0, "", b"")

    def _end(self, status: int, retry_after: str, content: bytes) -> None:
        press, self.press = self.press, None
        if press:
            press.answered(self, status, retry_after, content)


def _field(head: bytes, name: bytes) -> str:
    """The value of a field; nothing when it is not there."""
    _, found, rest = head.lower().partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip().decode() if found else ""
