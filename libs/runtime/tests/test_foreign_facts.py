"""Facts in the log that this service did not decide: reported with their sequence, and never a reason to stop."""

from datetime import UTC, datetime

import pytest
from paybill_contracts.blueprints import Blueprint, BlueprintPublished
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_contracts.tenant import OfferingNoted
from paybill_contracts.voided_events import EventVoided, payload_digest
from paybill_runtime.clock import new_id
from paybill_runtime.messaging import log_audit
from paybill_runtime.messaging.foreign_facts import LogMessage, continuation
from paybill_runtime.messaging.message_ids import message_id
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.replay.verify import replay
from paybill_runtime.telemetry import child
from paybill_runtime.testing import signed, until
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


async def forge(nats, revision: int, offering: str = "forged", *, signs: bool = False) -> int:
    """Publishes a fact with the login of the service, as an attacker who has it; returns its sequence.

    signs: with the signing key of the service.
    """
    id_ = new_id()
    event = OfferingNoted(offering=offering, keys=("eu-1",), source_hash="e" * 64)
    fact = Fact(event, id_, datetime.now(UTC), revision, Origin(id_, id_, "service:tenant", child("")))
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    headers = signed("tenant", subject_of(event), headers_of(fact), encode(event)) if signs else headers_of(fact)
    ack = await client.jetstream().publish(subject_of(event), encode(event), headers=headers, stream=EVENTS)
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


async def void(served, nats, sequence: int) -> None:
    """Declares a message void, as `paybill events void` does."""
    client = await connect(nats.url, "operator", nats.password("operator"))
    found = await client.jetstream().get_msg(EVENTS, sequence)
    await client.close()
    body = {
        "sequence": sequence,
        "event_id": message_id(EVENTS, found.subject, found.headers or {}, sequence),
        "digest": payload_digest(found.data),
        "subject": found.subject,
        "reason": "written by somebody else",
    }
    assert (await served.client.post("/v1/voided-events", json=body)).status_code == 200


async def test_a_void_closes_the_incident_and_a_replay_leaves_the_fact_out(audits_often, start, served, nats) -> None:
    sequence = await forge(nats, 1)
    await until(lambda: incidents(served))
    settings = served.running.settings
    report = await replay(service(), settings, served.running.database)
    assert [fault.kind for fault in report.faults if fault.where == f"sequence {sequence}"] == ["unknown_fact"]

    await void(served, nats, sequence)

    async def closed() -> bool:
        return not await incidents(served)

    await until(closed)
    report = await replay(service(), settings, served.running.database)
    assert (report.equal, report.voided) == (True, 1)
    await served.running.__aexit__()
    again = await start(service(), str(settings.database_url))
    await until(lambda: is_ready(again))
    assert not await incidents(again)


def regions(*names: str) -> BlueprintPublished:
    content = Blueprint(name="main", version=1, regions=names, cells=(), tiers=(), tables=())
    return BlueprintPublished(blueprint="main", content=content, content_hash="d" * 64)


async def test_a_service_skips_a_void_fact_that_it_has_not_handled(start, nats, publish, log, offerings) -> None:
    served = await start(service(), lease_s=300)
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    leases = served.running.leases
    owned = {name: epoch for name, epoch in leases.held.items() if name.startswith("partition-")}
    leases.held = {name: epoch for name, epoch in leases.held.items() if name not in owned}
    served.running.consumers["reader"]._owners_changed()
    await until(consumer_paused(served))
    await publish(regions("forged-1"))
    await void(served, nats, (await log.facts())[-1].sequence)
    await log.facts("tenant.event_voided")

    leases.held = leases.held | owned
    served.running.consumers["reader"]._owners_changed()
    await publish(regions("eu-2"))

    facts = await log.facts("tenant.offering_noted", at_least=3)
    assert [fact.event.keys for fact in facts[2:]] == [("eu-2",)]


def consumer_paused(served):
    async def paused() -> bool:
        return served.running.consumers["reader"]._ordered_consumer is None

    return paused


@pytest.fixture
def audits_never(monkeypatch):
    """Lets no witness be stored."""
    monkeypatch.setattr(log_audit, "WITNESS_S", 3600)


async def test_facts_that_follow_all_that_the_database_knows_stop_the_service(
    audits_never, served, sign_up, nats
) -> None:
    """They continue their aggregates with its signature, and nothing in the database is newer: an older copy."""
    await sign_up(served, "kept")

    async def drained() -> bool:
        return (await served.client.get("/v1/operations")).json()["outbox_waiting"] == 0

    await until(drained)
    sequence = await forge(nats, 1, "lost", signs=True)
    served.running.relay.realign()

    async def problem() -> str:
        checks = (await served.client.get("/readyz")).json()["checks"]
        return checks["relay"] if f"from {sequence} on" in checks["relay"] else ""

    assert "the database was restored from an older copy" in await until(problem)


async def test_forged_facts_that_follow_all_that_the_database_knows_stop_nothing(
    audits_never, served, sign_up, nats
) -> None:
    await sign_up(served, "kept")

    async def drained() -> bool:
        return (await served.client.get("/v1/operations")).json()["outbox_waiting"] == 0

    await until(drained)
    sequence = await forge(nats, 1, "lost")
    served.running.relay.realign()

    [incident] = await until(lambda: incidents(served))
    assert incident["subject"] == f"event/{sequence}"
    assert "it has no signature" in {each["value"] for each in incident["evidence"]}
    assert await is_ready(served)
    assert (await sign_up(served, "later")).status_code == 202


async def test_a_forged_void_voids_nothing(served, nats, sign_up) -> None:
    await sign_up(served, "kept")
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    found = await client.jetstream().get_msg(EVENTS, 2)
    void = EventVoided(
        void_id=new_id(),
        sequence=2,
        event_id=message_id(EVENTS, found.subject, found.headers, 2),
        digest=payload_digest(found.data),
        subject=found.subject,
        reason="forged",
        by="operator:nobody",
        voided_at=datetime.now(UTC),
    )
    fact = Fact(void, new_id(), datetime.now(UTC), 1, Origin("a", "a", "service:tenant", child("")))
    await client.jetstream().publish(subject_of(void), encode(void), headers=headers_of(fact), stream=EVENTS)

    voided = served.running.voided
    await voided.load(client)
    await client.close()

    assert not voided.covers(2, void.event_id, found.data)
