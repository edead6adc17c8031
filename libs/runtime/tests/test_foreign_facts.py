"""Facts in the log that this service did not decide: reported with their sequence, and never a reason to stop."""

from datetime import UTC, datetime

import pytest
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_contracts.tenant import OfferingNoted
from paybill_runtime.clock import new_id
from paybill_runtime.messaging import log_audit
from paybill_runtime.messaging.foreign_facts import LogMessage, continuation
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.telemetry import child
from paybill_runtime.testing import until
from paybill_tenant.app import service


def message(sequence: int, revision: int, aggregate: str = "tenant/a") -> LogMessage:
    return LogMessage(sequence, f"id-{sequence}", "paybill.events.0.tenant.x.v1", aggregate, revision)


def test_facts_that_continue_each_aggregate_after_all_that_is_known_show_an_older_database() -> None:
    unknown = [message(11, 3), message(12, 1, "tenant/b"), message(13, 4)]

    assert continuation(unknown, {"tenant/a": 2}, witness=10) == unknown


def test_a_fact_before_a_known_position_is_foreign() -> None:
    """The database was written when the stream was longer, so it holds each of its facts before."""
    assert continuation([message(11, 3)], {"tenant/a": 2}, witness=11) == []


@pytest.mark.parametrize("revision", [0, 1, 2, 4])
def test_a_fact_that_does_not_continue_its_aggregate_is_foreign(revision: int) -> None:
    assert continuation([message(11, revision)], {"tenant/a": 2}, witness=10) == []


async def forge(nats, revision: int, offering: str = "forged") -> int:
    """Publishes a fact with the login of the service, as an attacker who has it; returns its sequence."""
    id_ = new_id()
    event = OfferingNoted(offering=offering, keys=("eu-1",), source_hash="e" * 64)
    fact = Fact(event, id_, datetime.now(UTC), revision, Origin(id_, id_, "service:tenant", child("")))
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    ack = await client.jetstream().publish(subject_of(event), encode(event), headers=headers_of(fact), stream=EVENTS)
    await client.close()
    return int(ack.seq)


async def incidents(served) -> list[dict]:
    found = (await served.client.get("/v1/incidents")).json()["incidents"]
    return [each for each in found if each["kind"] == "foreign_fact"]


async def is_ready(served) -> bool:
    return (await served.client.get("/readyz")).json()["status"] == "ok"


@pytest.fixture
def audits_often(monkeypatch):
    """Makes an audit of the log each moment."""
    monkeypatch.setattr(log_audit, "WITNESS_S", 0.1)
    monkeypatch.setattr(log_audit, "NEWEST_S", 0.1)


@pytest.mark.parametrize("revision", [1, 9], ids=["the next revision", "another revision"])
async def test_a_forged_fact_becomes_an_incident_of_a_service_that_continues(
    audits_often, served, nats, sign_up, revision
) -> None:
    sequence = await forge(nats, revision)

    [incident] = await until(lambda: incidents(served))
    assert incident["subject"] == f"event/{sequence}"
    assert (await sign_up(served)).status_code == 202
    assert await is_ready(served)


async def test_a_service_that_starts_again_after_a_forged_fact_continues(audits_often, start, served, nats) -> None:
    """The service was stopped meanwhile only after it had noted how far the stream had come."""
    sequence = await forge(nats, 1)
    await until(lambda: incidents(served))
    await served.running.__aexit__()

    again = await start(service(), str(served.running.settings.database_url))

    await until(lambda: is_ready(again))
    assert [each["subject"] for each in await incidents(again)] == [f"event/{sequence}"]


async def test_a_forged_fact_that_fits_nothing_does_not_stop_a_service_that_starts(start, served, nats) -> None:
    await served.running.__aexit__()
    sequence = await forge(nats, 7)

    again = await start(service(), str(served.running.settings.database_url))

    await until(lambda: is_ready(again))
    assert [each["subject"] for each in await until(lambda: incidents(again))] == [f"event/{sequence}"]


@pytest.fixture
def audits_never(monkeypatch):
    """Lets no witness be stored."""
    monkeypatch.setattr(log_audit, "WITNESS_S", 3600)


async def test_facts_that_follow_all_that_the_database_knows_stop_the_service(
    audits_never, served, sign_up, nats
) -> None:
    """They continue their aggregates, and nothing in the database is newer: it may be an older copy."""
    await sign_up(served, "kept")

    async def drained() -> bool:
        return (await served.client.get("/v1/operations")).json()["outbox_waiting"] == 0

    await until(drained)
    sequence = await forge(nats, 1, "lost")
    served.running.relay.realign()

    async def problem() -> str:
        checks = (await served.client.get("/readyz")).json()["checks"]
        return checks["relay"] if f"from {sequence} on" in checks["relay"] else ""

    assert "the database was restored from an older copy" in await until(problem)
