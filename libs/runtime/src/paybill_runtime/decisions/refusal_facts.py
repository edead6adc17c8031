"""Facts about refused requests: bounded for each caller and code, with the number of those that were left out."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError, RetryLaterError
from paybill_contracts.operations import RequestRefused

from paybill_runtime import clock

REFUSALS_PER_MINUTE = 60
"""Refusals of one caller with one code that are recorded as facts at once. Of the others in the minute, the last one is
recorded at its end, with their number."""
MINUTE = timedelta(seconds=60)
PAUSE_S = 5.0

Record = Callable[[Origin, RequestRefused], Awaitable[None]]


@dataclass(slots=True)
class _Minute:
    """Refusals of a caller with a code. last: the last one that was left out."""

    began: datetime
    recorded: int = 0
    left_out: int = 0
    last: tuple[Origin, RequestRefused] | None = None


class RefusalFacts:
    """Records refusals. record: commits one fact."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._minutes: dict[tuple[str, str], _Minute] = {}

    async def add(self, origin: Origin, refusal: RequestRefused) -> None:
        """Records a refusal, or counts it when there were too many. Raises what `record` raises."""
        key, now = (origin.actor, refusal.code), clock.now()
        if key in self._minutes and now - self._minutes[key].began > MINUTE:
            await self._end(key)
        minute = self._minutes.setdefault(key, _Minute(now))
        if minute.recorded < REFUSALS_PER_MINUTE:
            minute.recorded += 1
            await self._record(origin, refusal)
        else:
            minute.left_out += 1
            minute.last = (origin, refusal)

    async def run(self) -> None:
        """Records what was left out when its minute has ended, until cancelled."""
        while True:
            await asyncio.sleep(PAUSE_S)
            now = clock.now()
            for key in [key for key, minute in self._minutes.items() if now - minute.began > MINUTE]:
                try:
                    await self._end(key)
                except RetryLaterError:
                    break  # the minute is kept; the next round tries it again

    async def _end(self, key: tuple[str, str]) -> None:
        minute = self._minutes.pop(key, None)
        if minute is None or minute.last is None:
            return
        origin, last = minute.last
        try:
            await self._record(origin, last.model_copy(update={"left_out": minute.left_out - 1}))
        except DomainError:
            newer = self._minutes.setdefault(key, minute)
            if newer is not minute:
                newer.left_out += minute.left_out
                newer.last = newer.last or minute.last
            raise
