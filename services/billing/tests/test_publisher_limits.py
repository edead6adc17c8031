"""Limits of publishers: garbage of one of them becomes few rows and facts, and stops nobody."""

import asyncio
from datetime import timedelta

import pytest
from paybill_billing.app import service
from paybill_runtime import clock
from paybill_runtime.messaging import publisher_limits
from paybill_runtime.messaging.streams import INTAKE, connect
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

pytestmark = pytest.mark.own_nats

GARBAGE = 600
SIZE = 60_000
SUBJECT = "paybill.intake.metering.usage.recorded.v1"


@pytest.fixture
async def metering(nats):
    client = await connect(nats.url, "metering", nats.password("metering"))
    yield client.jetstream()
    await client.close()


async def flood(jetstream, amount: int = GARBAGE, payload: bytes = b"x" * SIZE) -> None:
    await asyncio.gather(*(jetstream.publish(SUBJECT, payload, stream=INTAKE) for _ in range(amount)))


async def rows(served, databases, query: str):
    return await databases.execute(str(served.running.settings.database_url), "billing", query)


async def summaries(log):
    return [fact.event for fact in await log.facts("billing.intake_quarantined") if fact.event.left_out]


async def test_garbage_becomes_few_rows_and_one_fact_for_each_minute(
    start, databases, metering, log, monkeypatch
) -> None:
    monkeypatch.setattr(publisher_limits, "REPORT_INTERVAL_S", 0.1)
    first = await start(service(), default_provider="manual")
    second = await start(service(), str(first.running.settings.database_url), default_provider="manual")

    await flood(metering)

    async def counted() -> bool:
        found = await rows(
            first,
            databases,
            "SELECT (SELECT count(*) FROM chassis.quarantine) AS kept, "
            "(SELECT coalesce(sum(amount), 0) FROM chassis.left_out) AS left_out",
        )
        return found[0]["kept"] + found[0]["left_out"] == GARBAGE

    await until(counted)
    kept = (await rows(first, databases, "SELECT count(*) AS n, sum(length(payload)) AS size FROM chassis.quarantine"))[
        0
    ]
    minutes = (await rows(first, databases, "SELECT count(*) AS n FROM chassis.left_out"))[0]["n"]
    assert kept["n"] <= 60 * 2  # the flood may cross the end of a minute
    assert kept["size"] <= 120 * SIZE
    assert minutes in {1, 2}
    assert await summaries(log) == []  # the minute has not ended

    monkeypatch.setattr(publisher_limits, "REPORTED_AFTER", timedelta(minutes=-5))

    async def reported() -> bool:
        return sum(event.left_out for event in await summaries(log)) + kept["n"] == GARBAGE

    await until(reported)
    found = await summaries(log)
    assert len(found) == minutes
    assert all(
        event.publisher == "metering" and "60 refused messages in a minute are kept" in event.reason for event in found
    )
    assert await rows(first, databases, "SELECT 1 FROM chassis.left_out") == []
    facts = await log.facts("billing.intake_quarantined")
    assert len(facts) == kept["n"] + minutes
    assert (await replay(service(), second.running.settings, second.running.database)).equal


async def test_messages_and_bytes_beyond_the_limits_are_counted_and_may_be_sent_again(
    start, databases, metering, log, monkeypatch
) -> None:
    monkeypatch.setattr(publisher_limits, "REPORT_INTERVAL_S", 0.1)
    monkeypatch.setattr(publisher_limits, "REPORTED_AFTER", timedelta(minutes=-5))
    served = await start(
        service(), default_provider="manual", publisher_messages_per_minute=5, publisher_refused_per_minute=1000
    )

    await flood(metering, 12, b"{}")

    async def reported() -> list:
        found = await summaries(log)
        kept = len(await log.facts("billing.intake_quarantined")) - len(found)
        return found if kept + sum(event.left_out for event in found) == 12 else []

    found = await until(reported)
    assert "5 messages and" in found[0].reason
    assert await rows(served, databases, "SELECT 1 FROM chassis.quarantine OFFSET 10") == []
    assert len(await rows(served, databases, "SELECT 1 FROM chassis.inbox")) <= 10


def test_a_message_counts_in_the_minute_in_which_it_was_stored() -> None:
    usage = publisher_limits.PublisherUsage("billing", _settings(messages=2))
    now = clock.now().replace(second=0, microsecond=0)

    admission = usage.admission()
    admitted = [
        admission.admits(item) for item in [_item(now), _item(now), _item(now), _item(now + timedelta(minutes=1))]
    ]

    assert admitted == [True, True, False, True]
    assert len(admission.ids) == 1
    assert usage.admission().usage == {}  # nothing is committed
    usage.committed(admission)
    assert [each.messages for each in usage.admission().usage.values()] == [3, 1]


def test_bytes_are_limited_for_each_publisher_alone() -> None:
    usage = publisher_limits.PublisherUsage("billing", _settings(size_bytes=10))
    admission = usage.admission()
    now = clock.now().replace(second=0, microsecond=0)

    admitted = [admission.admits(_item(now, name, b"123456")) for name in ("a", "b", "a", "b")]

    assert admitted == [True, True, False, False]


class _Item:
    def __init__(self, minute, publisher, payload) -> None:
        self.id, self.minute, self.publisher, self.payload = str(clock.new_id()), minute, publisher, payload
        self.sequence, self.subject = 1, SUBJECT


def _item(minute, publisher="a", payload=b"x"):
    return _Item(minute, publisher, payload)


class _Settings:
    def __init__(self, messages, size_bytes) -> None:
        self.publisher_messages_per_minute, self.publisher_bytes_per_minute = messages, size_bytes
        self.publisher_refused_per_minute = 20


def _settings(messages=100, size_bytes=1000):
    return _Settings(messages, size_bytes)
