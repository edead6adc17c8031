"""Limits of publishers: garbage of one of them becomes few rows and facts, and stops nobody."""

import asyncio
from datetime import timedelta

import pytest
from paybill_billing.app import service
from paybill_contracts.usage import Usage
from paybill_runtime import clock
from paybill_runtime.messaging import publisher_limits
from paybill_runtime.messaging.message import EARLIEST
from paybill_runtime.messaging.publisher_limits import Admission
from paybill_runtime.messaging.streams import INTAKE, connect
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

pytestmark = pytest.mark.own_nats

GARBAGE = 600
SIZE = 60_000
SUBJECT = "paybill.intake.{}.usage.recorded.v1"


async def flood(nats, amount: int = GARBAGE, payload: bytes = b"x" * SIZE, publisher: str = "metering") -> None:
    client = await connect(nats.url, publisher, nats.password(publisher))
    publish = client.jetstream().publish
    await asyncio.gather(*(publish(SUBJECT.format(publisher), payload, stream=INTAKE) for _ in range(amount)))
    await client.close()


async def rows(served, databases, query: str):
    return await databases.execute(str(served.running.settings.database_url), "billing", query)


async def minutes(served, databases):
    """Returns the stored minutes, as mappings."""
    return await rows(served, databases, "SELECT * FROM chassis.publisher_minute ORDER BY publisher, minute")


async def kept(served, databases) -> int:
    return len(await rows(served, databases, "SELECT 1 FROM chassis.quarantine"))


async def summaries(log):
    return [fact.event for fact in await log.facts("billing.intake_quarantined") if fact.event.left_out]


@pytest.fixture
def reports_soon(monkeypatch):
    """Makes the job report minutes of the future, too, and often; returns a function that makes it do so."""
    monkeypatch.setattr(publisher_limits, "REPORT_INTERVAL_S", 0.1)
    return lambda: monkeypatch.setattr(publisher_limits, "REPORTED_AFTER", timedelta(minutes=-5))


async def test_garbage_becomes_few_rows_and_one_fact_for_each_minute(start, databases, nats, log, reports_soon) -> None:
    first = await start(service(), default_provider="manual")
    second = await start(service(), str(first.running.settings.database_url), default_provider="manual")

    await flood(nats)

    async def counted() -> bool:
        return sum(row["messages"] for row in await minutes(first, databases)) == GARBAGE

    await until(counted)
    stored = await minutes(first, databases)
    assert await kept(first, databases) == sum(min(row["refused"], 60) for row in stored)
    assert len(stored) in {1, 2}  # the flood may cross the end of a minute
    left_out = sum(row["left_out"] for row in stored)
    assert left_out + await kept(first, databases) == GARBAGE
    assert await summaries(log) == []  # the minute has not ended

    reports_soon()

    await until(lambda: _reported(log, left_out))
    found = await summaries(log)
    assert len(found) == len(stored)
    assert {event.publisher for event in found} == {"metering"}
    assert all("60 refused messages in a minute are kept" in event.reason for event in found)
    assert await minutes(first, databases) == []
    assert (await replay(service(), second.running.settings, second.running.database)).equal


async def _reported(log, amount: int) -> bool:
    return sum(event.left_out for event in await summaries(log)) == amount


async def test_a_restart_gives_no_publisher_its_limits_again(start, databases, nats) -> None:
    served = await start(service(), default_provider="manual", publisher_refused_per_minute=3)
    url = str(served.running.settings.database_url)
    await flood(nats, 10, b"{}")

    async def counted(amount: int) -> bool:
        return sum(row["messages"] for row in await minutes(served, databases)) == amount

    await until(lambda: counted(10))
    await served.running.__aexit__()
    again = await start(service(), url, default_provider="manual", publisher_refused_per_minute=3)

    await flood(nats, 10, b"{}")

    await until(lambda: counted(20))
    assert await kept(again, databases) <= 3 * len(await minutes(again, databases))


async def test_what_exceeds_the_messages_of_a_minute_is_counted_and_may_be_sent_again(
    start, databases, nats, log, reports_soon
) -> None:
    served = await start(service(), default_provider="manual", publisher_messages_per_minute=5)

    await flood(nats, 12, b"{}")

    async def counted() -> bool:
        return sum(row["messages"] for row in await minutes(served, databases)) == 12

    await until(counted)
    accepted = sum(min(row["messages"], 5) for row in await minutes(served, databases))
    assert await kept(served, databases) == accepted
    assert len(await rows(served, databases, "SELECT 1 FROM chassis.inbox")) == accepted
    reports_soon()
    await until(lambda: _reported(log, 12 - accepted))
    assert "5 messages and" in (await summaries(log))[0].reason


async def test_usage_is_recorded_after_the_garbage_of_its_publisher(testbed, nats, databases) -> None:
    tenant = "ten_" + "a" * 32
    await testbed.subscribed(tenant)
    await flood(nats, 200, b"{}")

    async def counted() -> bool:
        usage = Usage(tenant_id=tenant, meter="calls", quantity=7, occurred_at=clock.now())
        await testbed.metering.submit(usage)
        found = (await testbed.account(tenant))["usage"]
        return bool(found) and found[0]["total"] % 7 == 0 and found[0]["total"] > 0

    await until(counted)
    stored = await minutes(testbed.served, databases)
    assert sum(row["left_out"] for row in stored) >= 200 - 60 * len(stored) - 1


class _Item:
    def __init__(self, minute=EARLIEST, publisher: str = "a", payload: bytes = b"x") -> None:
        self.id, self.minute, self.publisher, self.payload = str(clock.new_id()), minute, publisher, payload
        self.subject, self.sequence, self.headers = SUBJECT.format(publisher), 1, {"name": "value"}


class _Settings:
    def __init__(self, messages: int = 100, size_bytes: int = 1000) -> None:
        self.publisher_messages_per_minute, self.publisher_bytes_per_minute = messages, size_bytes
        self.publisher_refused_per_minute = 2


NOW = clock.now()
MINUTE = NOW.replace(second=0, microsecond=0)


def test_a_message_counts_in_the_minute_in_which_it_was_stored() -> None:
    admission = Admission(_Settings(messages=2), NOW)

    admitted = [admission.admits(_Item(minute)) for minute in (MINUTE, MINUTE, MINUTE, MINUTE + timedelta(minutes=1))]

    assert admitted == [True, True, False, True]
    assert len(admission.ids) == 1


def test_bytes_of_headers_count_and_each_publisher_is_alone() -> None:
    admission = Admission(_Settings(size_bytes=20), NOW)

    admitted = [admission.admits(_Item(MINUTE, name)) for name in ("a", "b", "a", "b")]

    assert admitted == [True] * 4
    assert [admission.admits(_Item(MINUTE, name)) for name in ("a", "b")] == [False, False]


def test_earlier_transactions_count_and_a_retry_counts_now() -> None:
    admission = Admission(_Settings(), NOW, {("a", MINUTE): publisher_limits.Usage(refused=1)})

    assert [admission.admits_refused(_Item()) for _ in range(2)] == [True, False]
