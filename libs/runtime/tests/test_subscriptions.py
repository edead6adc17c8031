"""Messages in: each handled once, none blocking another tenant's; what fails waits where an operator sees it."""

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest
from paybill_contracts.envelope import Origin, subject_of
from paybill_contracts.errors import RetryLaterError
from paybill_contracts.personal import Personal
from paybill_contracts.tenant import OfferingNoted, Source, TenantRequested
from paybill_runtime import clock
from paybill_runtime.clock import new_id
from paybill_runtime.messaging import retry_queue
from paybill_runtime.messaging.streams import connect
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.testing import until
from paybill_tenant.app import service
from paybill_tenant.tables import SIGNUP_OPTIONS


class _Brittle:
    """A handler that fails for one tenant until it is mended."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.broken_for = ""
        self.error: Exception = RuntimeError("a bug in a handler")
        self.notes = False

    def hearing(self) -> Subscriptions:
        hears = Subscriptions()
        hears.fact_handlers.update(service().subscriptions.fact_handlers)

        @hears.fact(TenantRequested, writes=lambda fact: [SIGNUP_OPTIONS.key(f"x-{fact.slug}")])
        def requested(unit, fact, _at) -> None:
            if fact.slug.startswith(self.broken_for):
                raise self.error
            if self.notes:
                noted = OfferingNoted(offering=f"x-{fact.slug}", keys=(), source_hash="f" * 64)
                unit.record(SIGNUP_OPTIONS, f"x-{fact.slug}", [noted])
            self.heard.append(fact.slug)

        return hears


@pytest.fixture
def brittle() -> _Brittle:
    return _Brittle()


@pytest.fixture
async def specimen(start, publish, log, offerings, brittle, monkeypatch):
    monkeypatch.setattr(clock, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(retry_queue, "POLL_S", 0.02)
    monkeypatch.setattr(retry_queue, "MAX_ATTEMPTS", 3)
    brittle.broken_for = "bad"
    running = await start(replace(service(), subscriptions=brittle.hearing()))
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    return running


async def _dead(served):
    return (await served.client.get("/v1/operations/dead-letters", params={"only_dead": True})).json()


async def test_a_fact_that_cannot_be_handled_waits_and_others_go_on(specimen, brittle, sign_up, log) -> None:
    await sign_up(specimen, "bad-one")
    await sign_up(specimen, "good")

    dead = await until(lambda: _dead(specimen))

    assert brittle.heard == ["good"]
    assert dead[0]["reason"] == "RuntimeError: a bug in a handler"
    facts = await log.facts("tenant.message_dead_lettered")
    assert facts[0].event.attempts == 3


async def test_redriving_after_the_mend_finishes_the_queue(specimen, brittle, sign_up, log) -> None:
    await sign_up(specimen, "bad-one")
    dead = await until(lambda: _dead(specimen))
    brittle.broken_for = "nothing"

    answer = await specimen.client.post(f"/v1/operations/dead-letters/{dead[0]['event_id']}/redrive")

    assert answer.status_code == 200
    await until(lambda: _heard(brittle, "bad-one"))
    assert (await log.facts("tenant.message_redriven"))[0].event.operator == "operator:test"
    assert (await specimen.client.get("/v1/operations/dead-letters")).json() == []


async def _heard(brittle, slug) -> bool:
    return slug in brittle.heard


async def test_skipping_lets_the_queue_go_on_and_says_who_and_why(specimen, brittle, sign_up, log) -> None:
    await sign_up(specimen, "bad-one")
    dead = await until(lambda: _dead(specimen))

    url = f"/v1/operations/dead-letters/{dead[0]['event_id']}/skip"
    answer = await specimen.client.post(url, json={"reason": "known and harmless"})

    assert answer.status_code == 200
    assert (await log.facts("tenant.message_skipped"))[0].event.reason == "known and harmless"
    assert brittle.heard == []


async def test_an_unknown_dead_letter_is_a_404(specimen) -> None:
    answer = await specimen.client.post("/v1/operations/dead-letters/0190a5b0-0000-7000-8000-000000000001/redrive")

    assert (answer.status_code, answer.json()["code"]) == (404, "dead_letter_not_found")


async def test_what_waits_behind_a_failure_is_not_tried_and_then_handled_in_order(
    specimen, brittle, sign_up, publish, databases
) -> None:
    brittle.broken_for = "bad"
    tenant = (await sign_up(specimen, "bad-one")).json()["id"]
    await until(lambda: _dead(specimen))
    await publish(_requested(tenant, "bad-two"), _requested(tenant, "good-three"))
    rows = await until(lambda: _parked(specimen, 3))
    await asyncio.sleep(0.2)

    assert [(row["attempts"], row["dead"]) for row in await _parked(specimen, 3)] == [(3, True), (0, False), (0, False)]
    brittle.broken_for = "nothing"
    await specimen.client.post(f"/v1/operations/dead-letters/{rows[0]['event_id']}/redrive")

    await until(lambda: _heard(brittle, "good-three"))
    assert brittle.heard == ["bad-one", "bad-two", "good-three"]


async def _parked(served, count: int):
    rows = (await served.client.get("/v1/operations/dead-letters")).json()
    return rows if len(rows) == count else []


def _requested(tenant: str, slug: str) -> TenantRequested:
    sealed = Personal[str](key=f"tenant/{tenant}", sealed="A" * 60)
    return TenantRequested(
        tenant_id=tenant, slug=slug, name="x", plan="pro", region="eu-1", contact_email=sealed, source=Source.API
    )


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 / 0",
        "INSERT INTO chassis.member SELECT * FROM chassis.member LIMIT 1",
        "SELECT '\\u0000'::jsonb",
        "SELECT * FROM no_such_table",
    ],
)
async def test_a_message_whose_writes_fail_in_the_database_is_parked_alone(
    specimen, brittle, sign_up, databases, statement
) -> None:
    """What a handler records may be what PostgreSQL refuses, whatever the reason; a trigger stands for it."""
    url = str(specimen.running.settings.database_url)
    quoted = statement.replace("'", "''")
    await databases.execute(
        url,
        "tenant",
        f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE '{quoted}'; RETURN NEW; END $$",
    )
    await databases.execute(
        url,
        "tenant",
        "CREATE TRIGGER refuse BEFORE INSERT ON chassis.outbox FOR EACH ROW "
        "WHEN (NEW.aggregate = 'offering/x-bad') EXECUTE FUNCTION refuse()",
    )
    brittle.broken_for, brittle.notes = "nothing", True

    await asyncio.gather(*(sign_up(specimen, slug) for slug in ("one", "bad", "two")))

    dead = await until(lambda: _dead(specimen))
    assert [row["attempts"] for row in dead] == [3]
    await until(lambda: _heard(brittle, "two"))
    health = (await specimen.client.get("/readyz")).json()
    assert health["status"] == "ok", health


async def test_a_rule_that_cannot_decide_yet_is_asked_again(specimen, brittle, sign_up, log) -> None:
    brittle.broken_for, brittle.error = "early", RetryLaterError("not yet")
    await sign_up(specimen, "early")
    await until(lambda: _parked(specimen, 1))

    brittle.broken_for = "nothing"

    await until(lambda: _heard(brittle, "early"))
    assert not [fact for fact in await log.facts() if fact.event.TYPE == "tenant.request_refused"]


async def test_a_fact_that_cannot_be_read_waits_and_the_other_tenants_go_on(specimen, brittle, sign_up, nats) -> None:
    tenant = "ten_" + "a" * 32
    subject = subject_of(_requested(tenant, "x"))
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    headers = {"ce-id": new_id(), "pb-tenant": tenant}
    await client.jetstream().publish(subject, b'{"from": "a newer version"}', headers=headers)
    await client.close()
    await sign_up(specimen, "good")

    await until(lambda: _heard(brittle, "good"))
    dead = await until(lambda: _dead(specimen))
    assert [(row["tenant"], row["reason"].split(":")[0]) for row in dead] == [(tenant, "InvalidEventError")]


async def test_an_operator_who_skips_a_fact_while_it_is_tried_again_has_skipped_it(
    specimen, brittle, sign_up, databases
) -> None:
    await sign_up(specimen, "bad-one")
    dead = await until(lambda: _dead(specimen))
    url = str(specimen.running.settings.database_url)
    origin = Origin("c", "c", "operator:test", "")
    id_ = UUID(dead[0]["event_id"])

    await specimen.running.retry_queue.skip(id_, origin, "enough")

    assert await specimen.running.retry_queue._try(id_, specimen.running.leases.held)
    with pytest.raises(retry_queue.DeadLetterNotFoundError):
        await specimen.running.retry_queue.skip(id_, origin, "again")
    said = "SELECT subject FROM chassis.outbox WHERE aggregate LIKE 'dead-l%' ORDER BY position"
    rows = await databases.execute(url, "tenant", said)
    assert [row["subject"].split(".")[4] for row in rows] == ["message_dead_lettered", "message_skipped"]


async def test_a_fact_that_is_stored_three_times_is_heard_once(served, publish, log, offerings) -> None:
    newer = offerings[0].model_copy(update={"content_hash": "d" * 64})

    await publish(newer, copies=3)

    facts = await log.facts("tenant.offering_noted", at_least=3)
    assert [fact.event.source_hash[0] for fact in facts if fact.event.offering == "plans"] == ["c", "d"]


async def test_a_second_replica_takes_over_where_the_first_one_ended(start, served, publish, log, offerings) -> None:
    second = await start(service(), url=served.running.settings.database_url)
    await until(lambda: _shares(served, second))
    await served.running.__aexit__(None, None, None)
    await second.running.leases.tick()

    await publish(offerings[0].model_copy(update={"content_hash": "e" * 64}))

    facts = await log.facts("tenant.offering_noted", at_least=3)
    assert facts[-1].event.source_hash == "e" * 64
    assert len(second.running.leases.partitions()) == 16


async def _shares(first, second) -> bool:
    await first.running.leases.tick()
    await second.running.leases.tick()
    return len(first.running.leases.partitions()) == len(second.running.leases.partitions()) == 8


async def test_an_owner_that_lost_its_lease_cannot_commit(served, publish, databases, offerings) -> None:
    url = str(served.running.settings.database_url)
    before = await databases.execute(url, "tenant", "SELECT max(sequence) AS s FROM chassis.position")
    served.running._tasks["leases"].cancel()
    await databases.execute(url, "tenant", "UPDATE chassis.lease SET owner = 'another', epoch = epoch + 1")

    await publish(offerings[0].model_copy(update={"content_hash": "f" * 64}))
    await until(lambda: _paused(served))

    after = await databases.execute(url, "tenant", "SELECT max(sequence) AS s FROM chassis.position")
    assert after[0]["s"] == before[0]["s"]


async def _paused(served) -> bool:
    return served.running.consumers["reader"]._changed or served.running.consumers["reader"]._ordered_consumer is None


@pytest.mark.own_nats
async def test_a_service_that_is_there_before_the_bus_hears_and_speaks_as_soon_as_it_comes(
    start, nats, publish, log, offerings
) -> None:
    await asyncio.to_thread(nats.stop)
    early = await start(service())
    await asyncio.to_thread(nats.start)

    await until(lambda: _connected(early))
    await publish(*offerings)

    assert len(await log.facts("tenant.offering_noted", at_least=2)) == 2


async def _connected(served) -> bool:
    return served.running.broker.connected.is_set()
