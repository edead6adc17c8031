"""Timers fire once, late after an outage, and independently for each aggregate."""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import APIRouter
from paybill_contracts.envelope import Origin
from paybill_contracts.tenant import OfferingNoted
from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored, generated
from paybill_runtime.jobs.effects import Timer
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.testing import until
from paybill_tenant.app import service
from sqlalchemy import MetaData
from sqlalchemy.orm import registry

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Alarm that is due as many seconds after the epoch as its first fact states; every further fact is a ring."""

    due: datetime | None
    rings: int = 0


def evolve(alarm: Alarm | None, event: OfferingNoted) -> Alarm:
    if alarm is None:
        return Alarm(EPOCH + timedelta(seconds=int(event.keys[0].removeprefix("s"))))
    return Alarm(None, alarm.rings + 1)


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """Base of the tables of this test."""


class AlarmRow(Base, table=True):
    __tablename__ = "alarms"
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


ALARMS = Stored("offering", AlarmRow, Alarm, evolve)


def _ring(name: str) -> OfferingNoted:
    return OfferingNoted(offering=name, keys=(), source_hash="a" * 64)


def on_time(alarm: Alarm, now: datetime) -> list[OfferingNoted]:
    """Returns a ring for a due alarm; its name follows from the due time, see `_set`."""
    if alarm.due is None or alarm.due > now:
        return []
    seconds = int((alarm.due - EPOCH).total_seconds())
    if seconds == BROKEN:
        raise RuntimeError("a bug in a rule")
    return [] if seconds == SILENT else [_ring(f"alarm-{seconds}")]


BROKEN, SILENT = 666, 777


def _record_firing(id_: str, now: datetime):
    def add(statement) -> None:
        statement.add(f"INSERT INTO firings (id, at) VALUES ({statement.value(id_)}, {statement.value(now)})")

    return add


def _service(*, ticking: bool = True):
    timer = (Timer(ALARMS, "due", on_time, extra_statements=_record_firing),) if ticking else ()
    router = APIRouter(prefix="/v1/none")
    declared = replace(service(), states=(ALARMS,), on_start=(), subscriptions=Subscriptions())
    return replace(declared, timers=timer, router=lambda _: router)


@pytest.fixture
async def url(databases) -> str:
    made = await databases.fresh("tenant")
    await databases.execute(
        made,
        "tenant",
        "CREATE TABLE alarms (id text PRIMARY KEY, revision bigint NOT NULL, state jsonb NOT NULL, "
        "due text GENERATED ALWAYS AS (rtrim(state->>'due', 'Z')) STORED)",
    )
    await databases.execute(made, "tenant", "CREATE TABLE firings (id text NOT NULL, at timestamptz NOT NULL)")
    return made


async def _set(served, *seconds: int) -> None:
    for second in seconds:
        name = f"alarm-{second}"
        fact = OfferingNoted(offering=name, keys=(f"s{second}",), source_hash="a" * 64)
        await served.running.context.decide(
            Origin(name, name, "service:tenant", ""),
            lambda unit, _, name=name, fact=fact: unit.record(ALARMS, name, [fact]),
            writes=[ALARMS.key(name)],
        )


async def _round(*replicas) -> None:
    """Runs one round of every timer, now."""
    for served in replicas:
        await served.running.timers.request_due()


async def _rings(databases, url) -> dict[str, int]:
    rows = await databases.execute(url, "tenant", "SELECT id, (state->>'rings')::int AS rings FROM alarms")
    return {row["id"]: row["rings"] for row in rows if row["rings"]}


async def test_a_timer_due_while_no_replica_ran_fires_once_at_start(start, url, databases, log) -> None:
    stopped = await start(_service(ticking=False), url=url)
    await _set(stopped, 1, 2, 3)

    replicas = await asyncio.gather(*(start(_service(), url=url) for _ in range(3)))

    await log.facts("tenant.offering_noted", at_least=6)
    await _round(*replicas)
    facts = await log.facts("tenant.offering_noted", at_least=6)
    assert len(facts) == 6
    assert await _rings(databases, url) == {"alarm-1": 1, "alarm-2": 1, "alarm-3": 1}
    fired = [fact for fact in facts if fact.revision == 2]
    assert {fact.origin.cause for fact in fired} == {f"timer:offering/alarm-{n}" for n in (1, 2, 3)}
    assert {fact.origin.actor for fact in fired} == {"service:tenant"}


async def test_extra_statements_commit_together_with_the_timer_s_facts(start, url, databases, log) -> None:
    served = await start(_service(), url=url)

    await _set(served, 5, BROKEN)

    await log.facts("tenant.offering_noted", at_least=3)
    assert [row["id"] for row in await databases.execute(url, "tenant", "SELECT id FROM firings")] == ["alarm-5"]


async def test_no_timer_fires_before_its_time(start, url, databases) -> None:
    served = await start(_service(), url=url)
    ahead = int((datetime.now(UTC) + timedelta(seconds=1) - EPOCH).total_seconds()) + 1
    await _set(served, ahead)
    await _round(served)

    async def rung() -> dict[str, int]:
        return await _rings(databases, url)

    assert await until(rung) == {f"alarm-{ahead}": 1}
    (firing,) = await databases.execute(url, "tenant", "SELECT at FROM firings")
    assert firing["at"] >= EPOCH + timedelta(seconds=ahead)


async def test_a_rule_that_fails_or_records_nothing_does_not_block_other_timers(start, url, databases, caplog) -> None:
    served = await start(_service(), url=url)

    await _set(served, SILENT, BROKEN, 5)

    async def rung() -> dict[str, int]:
        return await _rings(databases, url)

    async def logged() -> bool:
        return any("alarm-666 failed" in record.message for record in caplog.records)

    assert await until(rung) == {"alarm-5": 1}
    await until(logged)
    await _round(served)
    await _round(served)
    assert served.running.health()["timers"] == "ok"
