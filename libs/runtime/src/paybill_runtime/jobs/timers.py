"""Fires timers that are due. Any replica may: the decision checks the current state, so that a timer fires once."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from paybill_contracts.envelope import Origin
from sqlalchemy import text

from paybill_runtime import clock
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.group_commit import Decision, GroupCommit
from paybill_runtime.errors import DatabaseUnavailableError
from paybill_runtime.jobs.effects import Timer
from paybill_runtime.telemetry import span

log = logging.getLogger(__name__)

POLL_S = 0.25
PAUSE_S = 5.0
"""Pause of an aggregate whose rule fails, or records nothing although its timer is due."""
BATCH = 64


class Timers:
    """Polls the tables of the timers."""

    def __init__(self, timers: Sequence[Timer], service: str, database: Database, group_commit: GroupCommit) -> None:
        self._timers = timers
        self._service = service
        self._database = database
        self._group_commit = group_commit
        self._paused: dict[Key, datetime] = {}

    async def run(self) -> None:
        """Polls, until cancelled."""
        while True:
            for timer in self._timers:
                try:
                    await self._fire(timer)
                except DatabaseUnavailableError as error:
                    log.warning("timers pause: %s", error)
            await asyncio.sleep(POLL_S)

    async def _fire(self, timer: Timer) -> None:
        stored, now = timer.stored, clock.now()
        self._paused = {key: until for key, until in self._paused.items() if until > now}
        others = "'{}'::text[]"
        if timer.owner is not None:
            same = f"o.{timer.owner} = t.{timer.owner} AND o.id <> t.id"
            others = f"ARRAY(SELECT o.id FROM {stored.table.name} AS o WHERE {same})"  # noqa: S608  # names are our own
        query = text(
            f"SELECT id, {others} AS others FROM {stored.table.name} AS t WHERE {timer.column} <= :now "  # noqa: S608
            f"AND NOT id = ANY(:paused) ORDER BY {timer.column} LIMIT {BATCH}"
        )
        values = {
            "now": now.replace(tzinfo=None).isoformat(),
            "paused": [key.id for key in self._paused if key.kind == stored.kind],
        }
        async with self._database.reading() as connection:
            rows = (await connection.execute(query, values)).all()
        answers = await asyncio.gather(*(self._one(timer, row.id, row.others) for row in rows), return_exceptions=True)
        for row, answer in zip(rows, answers, strict=True):
            match answer:
                case DatabaseUnavailableError():
                    raise answer
                case Exception():
                    log.error("the timer of %s/%s fails; others continue", stored.kind, row.id, exc_info=answer)
                case BaseException():
                    raise answer
                case 0:
                    log.debug("the timer of %s/%s recorded nothing", stored.kind, row.id)
                case _:
                    continue
            self._paused[stored.key(row.id)] = now + timedelta(seconds=PAUSE_S)

    async def _one(self, timer: Timer, id_: str, others: Sequence[str]) -> int:
        cause = f"timer:{timer.stored.kind}/{id_}"
        with span(f"timer {timer.stored.kind}", None) as traceparent:
            origin = Origin(cause, cause, f"service:{self._service}", traceparent)
            extra = [timer.extra_statements(id_, clock.now())] if timer.extra_statements is not None else []
            key, reads = timer.stored.key(id_), [timer.stored.key(other) for other in others]
            return await self._group_commit.decide(
                Decision(origin, timer.decision(id_, others), [key], reads, {}, extra)
            )
