"""Relay from the outbox to the stream: every fact once and in order, also after crashes."""

import asyncio
from dataclasses import replace
from functools import partial

import pytest
from paybill_contracts.envelope import Origin
from paybill_contracts.tenant import OfferingNoted
from paybill_runtime.decisions.group_commit import Decision
from paybill_runtime.decisions.outbox_headers import FactColumns, complete
from paybill_runtime.messaging import relay
from paybill_runtime.messaging.streams import EVENTS, configurations, connect
from paybill_runtime.testing import until
from paybill_tenant.app import service
from paybill_tenant.tables import SIGNUP_OPTIONS

ROWS = (
    "SELECT sequence, payload, headers, event_id::text, aggregate, revision, tenant, subject, recorded_at "
    "FROM chassis.outbox JOIN chassis.publication USING (position) ORDER BY position"
)


async def _waiting(served) -> int:
    return (await served.client.get("/v1/operations")).json()["outbox_waiting"]


async def _drained(served) -> bool:
    return await _waiting(served) == 0


async def _trouble(served, status: str = "degraded") -> str:
    """Returns the problems as soon as the service is in this state."""
    readiness = (await served.client.get("/readyz")).json()
    return readiness["checks"]["bus"] if readiness["status"] == status else ""


async def _outbox(served, databases):
    url = str(served.running.settings.database_url)
    return await databases.execute(url, "tenant", ROWS)


@pytest.fixture
async def served(start, publish, log, offerings):
    """Service whose leases are renewed so rarely that `_pause_relay` lasts."""
    running = await start(service(), lease_s=300)
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    return running


async def _pause_relay(served) -> None:
    """Pauses the relay, so that facts collect in the outbox until `_resume_relay`."""
    served.running.leases.held.pop(relay.RELAY)


async def _resume_relay(served) -> None:
    served.running.leases.held = {}
    await served.running.leases.tick()


@pytest.mark.parametrize("count", [8, 60], ids=["one by one", "an atomic batch"])
async def test_facts_already_in_the_stream_are_not_stored_twice_and_the_others_are_published(
    served, sign_up, databases, nats, log, count
) -> None:
    """Simulates a relay killed before it recorded the confirmation; one such message rejects a whole atomic batch."""
    await until(lambda: _drained(served))
    await _pause_relay(served)
    await asyncio.gather(*(sign_up(served, f"tenant-{number}") for number in range(count)))
    rows = [row for row in await _outbox(served, databases) if row["sequence"] is None]
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    for row in rows[1::3]:
        headers = complete(row["headers"], FactColumns._make(tuple(row)[3:]))
        await client.jetstream().publish(row["subject"], row["payload"], headers=headers)
    await client.close()
    served.running.relay._sure = True  # as if it had checked before

    await _resume_relay(served)

    await until(lambda: _drained(served))
    facts = await log.facts("tenant.tenant_requested", at_least=count)
    assert len(facts) == len({fact.id for fact in facts}) == count
    noted = {str(row["event_id"]): row["sequence"] for row in await _outbox(served, databases)}
    assert [noted[fact.id] for fact in facts] == [fact.sequence for fact in facts]


@pytest.mark.parametrize("taken", [0, 1], ids=["no other publisher in between", "stored, with others after it"])
async def test_facts_of_one_aggregate_sent_together_stay_in_order(
    served, databases, nats, log, publish, offerings, taken
) -> None:
    """Every message expects its predecessor to be the last one; otherwise they are sent one by one."""
    await until(lambda: _drained(served))
    await _pause_relay(served)
    notes = [OfferingNoted(offering="x", keys=(f"eu-{number}",), source_hash="e" * 64) for number in range(4)]
    origin = Origin("test", "test", "service:tenant", "")
    decide = partial(_record, notes)
    await served.running.group_commit.decide(Decision(origin, decide, writes=[SIGNUP_OPTIONS.key("x")]))
    rows = [row for row in await _outbox(served, databases) if row["sequence"] is None]
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    for row in rows[:taken]:
        headers = complete(row["headers"], FactColumns._make(tuple(row)[3:]))
        await client.jetstream().publish(row["subject"], row["payload"], headers=headers)
        await publish(*offerings)
    await client.close()
    served.running.relay._sure = True  # as if it had checked before

    await _resume_relay(served)

    await until(lambda: _drained(served))
    facts = [fact for fact in await log.facts("tenant.offering_noted") if fact.event.offering == "x"]
    assert [fact.event for fact in facts] == notes
    assert [fact.revision for fact in facts] == [1, 2, 3, 4]
    if not taken:  # else the chain broke, and the rest was sent one by one
        operator = await connect(nats.url, "operator", nats.password("operator"))
        stored = [await operator.jetstream().get_msg(EVENTS, fact.sequence, direct=True) for fact in facts]
        await operator.close()
        before = [message.headers.get("Nats-Expected-Last-Msg-Id") for message in stored]
        assert before == [None, *(fact.id for fact in facts[:-1])]


async def test_facts_that_are_gathered_are_published_once_and_in_order(start, databases) -> None:
    served = await start(replace(service(), gather_facts_s=0.2))
    for number in range(12):
        event = OfferingNoted(offering="x", keys=("eu-1",), source_hash="e" * 64)
        decision = Decision(
            Origin(str(number), str(number), "service:tenant", ""),
            partial(_record, [event]),
            writes=[SIGNUP_OPTIONS.key("x")],
        )
        await served.running.group_commit.decide(decision)

    await until(lambda: _drained(served))

    sequences = [row["sequence"] for row in await _outbox(served, databases) if row["aggregate"] == "offering/x"]
    assert len(sequences) == 12
    assert sequences == sorted(set(sequences))


def _record(events, unit, _at) -> None:
    unit.record(SIGNUP_OPTIONS, "x", events)


@pytest.mark.own_nats
async def test_a_broker_killed_repeatedly_loses_no_fact_and_repeats_none(served, sign_up, databases, nats, log) -> None:
    asked = [asyncio.create_task(sign_up(served, f"tenant-{number}")) for number in range(40)]
    for number in range(3):
        await asyncio.sleep(0.1)
        nats.kill()
        asked += [asyncio.create_task(sign_up(served, f"later-{number}-{place}")) for place in range(20)]
        nats.start()

    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {202}
    await until(lambda: _drained(served))
    facts = await log.facts("tenant.tenant_requested", at_least=100)
    assert len(facts) == len({fact.id for fact in facts}) == 100
    noted = {str(row["event_id"]): row["sequence"] for row in await _outbox(served, databases)}
    assert [noted[fact.id] for fact in facts] == [fact.sequence for fact in facts]


async def test_while_keys_cannot_be_copied_no_fact_is_published_and_readiness_reports_it(served, sign_up, log) -> None:
    public = served.running.settings.identity_dir / "billing.pub"
    kept = public.read_bytes()
    public.unlink()

    await sign_up(served)

    assert "billing.pub is missing" in await until(lambda: _trouble(served))
    assert await _waiting(served) == 1
    public.write_bytes(kept)
    await until(lambda: _drained(served))
    assert len(await log.facts("tenant.tenant_requested")) == 1
    assert await _trouble(served, "ok") == "ok"


async def test_a_problem_is_logged_once_and_not_with_every_attempt(served, sign_up, caplog) -> None:
    (served.running.settings.identity_dir / "billing.pub").unlink()
    await sign_up(served)
    await until(lambda: _trouble(served))

    async def failed_again() -> bool:
        return served.running.relay._failures > 1

    await until(failed_again)
    assert sum("the relay pauses" in record.message for record in caplog.records) == 1


@pytest.mark.own_nats
async def test_a_stream_restored_from_an_older_copy_is_detected_before_anything_is_appended(
    served, sign_up, nats
) -> None:
    await sign_up(served)
    await until(lambda: _drained(served))

    nats.kill()
    await sign_up(served, "later")
    for path in sorted((nats.data_dir / "nats" / "jetstream").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    nats.start()
    steward = await connect(nats.url, "steward", nats.password("steward"))
    for configuration in configurations(1):
        await steward.jetstream().add_stream(configuration)

    async def detected() -> bool:  # by the relay: the consumer may have detected it before
        return "the stream was restored from an older copy" in await _trouble(served, "failed")

    await until(detected)
    assert (await steward.jetstream().stream_info(EVENTS)).state.messages == 0
    assert await _waiting(served) == 1
    await steward.close()


async def test_a_database_restored_from_an_older_copy_is_detected_before_anything_is_appended(
    served, sign_up, databases, nats
) -> None:
    await sign_up(served, "kept")
    await until(lambda: _drained(served))
    await sign_up(served, "forgotten")
    await until(lambda: _drained(served))
    await _pause_relay(served)
    url = str(served.running.settings.database_url)
    await databases.execute(
        url, "tenant", "DELETE FROM chassis.outbox WHERE position = (SELECT max(position) FROM chassis.outbox)"
    )
    await databases.execute(
        url,
        "tenant",
        "DELETE FROM chassis.publication WHERE position = (SELECT max(position) FROM chassis.publication)",
    )
    await sign_up(served, "later")

    await _resume_relay(served)

    assert "the database was restored from an older copy" in await until(lambda: _trouble(served, "failed"))
    assert await _waiting(served) == 1
