"""Subscriptions: every message is handled once, and a failed one blocks only its tenant and is visible to operators."""

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
from paybill_runtime.testing.signing import publish_signed
from paybill_tenant.app import service
from paybill_tenant.tables import SIGNUP_OPTIONS


class _Brittle:
    """Handler that fails for one tenant until it is fixed."""

    def __init__(self) -> None:
        self.handled: list[str] = []
        self.broken_for = ""
        self.error: Exception = RuntimeError("a bug in a handler")
        self.notes = False

    def subscriptions(self) -> Subscriptions:
        subscriptions = Subscriptions()
        subscriptions.fact_handlers.update(service().subscriptions.fact_handlers)

        @subscriptions.fact(TenantRequested, writes=lambda fact: [SIGNUP_OPTIONS.key(f"x-{fact.slug}")])
        def requested(unit, fact, _at) -> None:
            if fact.slug.startswith(self.broken_for):
                raise self.error
            if self.notes:
                noted = OfferingNoted(offering=f"x-{fact.slug}", keys=(), source_hash="f" * 64)
                unit.record(SIGNUP_OPTIONS, f"x-{fact.slug}", [noted])
            self.handled.append(fact.slug)

        return subscriptions


@pytest.fixture
def brittle() -> _Brittle:
    return _Brittle()


@pytest.fixture
async def brittle_service(start, publish, log, offerings, brittle, monkeypatch):
    monkeypatch.setattr(clock, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(retry_queue, "MAX_ATTEMPTS", 3)
    brittle.broken_for = "bad"
    running = await start(replace(service(), subscriptions=brittle.subscriptions()))
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    return running


async def _dead(served):
    return (await served.client.get("/v1/operations/dead-letters", params={"only_dead": True})).json()


async def test_a_fact_that_cannot_be_handled_waits_and_others_are_handled(
    brittle_service, brittle, sign_up, log
) -> None:
    await sign_up(brittle_service, "bad-one")
    await sign_up(brittle_service, "good")

    dead = await until(lambda: _dead(brittle_service))

    assert brittle.handled == ["good"]
    assert dead[0]["reason"] == "RuntimeError: a bug in a handler"
    facts = await log.facts("tenant.message_dead_lettered")
    assert facts[0].event.attempts == 3


async def test_redriving_after_the_fix_empties_the_queue(brittle_service, brittle, sign_up, log) -> None:
    await sign_up(brittle_service, "bad-one")
    dead = await until(lambda: _dead(brittle_service))
    brittle.broken_for = "nothing"

    answer = await brittle_service.client.post(f"/v1/operations/dead-letters/{dead[0]['event_id']}/redrive")

    assert answer.status_code == 200
    await until(lambda: _was_handled(brittle, "bad-one"))
    assert (await log.facts("tenant.message_redriven"))[0].event.operator == "operator:test"

    async def is_empty() -> bool:  # it is handled before it is committed
        return (await brittle_service.client.get("/v1/operations/dead-letters")).json() == []

    await until(is_empty)


async def _was_handled(brittle, slug) -> bool:
    return slug in brittle.handled


async def test_skipping_unblocks_the_queue_and_records_the_operator_and_the_reason(
    brittle_service, brittle, sign_up, log
) -> None:
    await sign_up(brittle_service, "bad-one")
    dead = await until(lambda: _dead(brittle_service))

    url = f"/v1/operations/dead-letters/{dead[0]['event_id']}/skip"
    answer = await brittle_service.client.post(url, json={"reason": "known and harmless"})

    assert answer.status_code == 200
    assert (await log.facts("tenant.message_skipped"))[0].event.reason == "known and harmless"
    assert brittle.handled == []


async def test_an_unknown_dead_letter_is_a_404(brittle_service) -> None:
    answer = await brittle_service.client.post(
        "/v1/operations/dead-letters/0190a5b0-0000-7000-8000-000000000001/redrive"
    )

    assert (answer.status_code, answer.json()["code"]) == (404, "dead_letter_not_found")


async def test_messages_behind_a_failure_are_not_tried_and_later_handled_in_order(
    brittle_service, brittle, sign_up, publish, databases
) -> None:
    brittle.broken_for = "bad"
    tenant = (await sign_up(brittle_service, "bad-one")).json()["id"]
    await until(lambda: _dead(brittle_service))
    await publish(_requested(tenant, "bad-two"), _requested(tenant, "good-three"))
    rows = await until(lambda: _queued(brittle_service, 3))
    await asyncio.sleep(0.2)

    assert [(row["attempts"], row["dead"]) for row in await _queued(brittle_service, 3)] == [
        (3, True),
        (0, False),
        (0, False),
    ]
    brittle.broken_for = "nothing"
    await brittle_service.client.post(f"/v1/operations/dead-letters/{rows[0]['event_id']}/redrive")

    await until(lambda: _was_handled(brittle, "good-three"))
    assert brittle.handled == ["bad-one", "bad-two", "good-three"]


async def _queued(served, count: int):
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
async def test_a_message_whose_writes_fail_goes_to_the_retry_queue_alone(
    brittle_service, brittle, sign_up, databases, statement
) -> None:
    """PostgreSQL may refuse the writes of a handler for any reason; a trigger simulates it."""
    url = str(brittle_service.running.settings.database_url)
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

    await asyncio.gather(*(sign_up(brittle_service, slug) for slug in ("one", "bad", "two")))

    dead = await until(lambda: _dead(brittle_service))
    assert [row["attempts"] for row in dead] == [3]
    await until(lambda: _was_handled(brittle, "two"))
    health = (await brittle_service.client.get("/readyz")).json()
    assert health["status"] == "ok", health


async def test_a_rule_that_cannot_decide_yet_is_retried(brittle_service, brittle, sign_up, log) -> None:
    brittle.broken_for, brittle.error = "early", RetryLaterError("not yet")
    await sign_up(brittle_service, "early")
    await until(lambda: _queued(brittle_service, 1))

    brittle.broken_for = "nothing"

    await until(lambda: _was_handled(brittle, "early"))
    assert not [fact for fact in await log.facts() if fact.event.TYPE == "tenant.request_refused"]


async def test_an_unreadable_fact_waits_and_other_tenants_are_handled(brittle_service, brittle, sign_up, nats) -> None:
    tenant = "ten_" + "a" * 32
    subject = subject_of(_requested(tenant, "x"))
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    headers = {"ce-id": new_id(), "ce-source": "paybill/tenant", "pb-tenant": tenant}
    await publish_signed(client, "tenant", subject, headers, b'{"from": "a newer version"}')
    await client.close()
    await sign_up(brittle_service, "good")

    await until(lambda: _was_handled(brittle, "good"))
    dead = await until(lambda: _dead(brittle_service))
    assert [(row["tenant"], row["reason"].split(":")[0]) for row in dead] == [(tenant, "InvalidEventError")]


async def test_a_fact_skipped_by_an_operator_during_its_retry_stays_skipped(
    brittle_service, brittle, sign_up, databases
) -> None:
    await sign_up(brittle_service, "bad-one")
    dead = await until(lambda: _dead(brittle_service))
    url = str(brittle_service.running.settings.database_url)
    origin = Origin("c", "c", "operator:test", "")
    id_ = UUID(dead[0]["event_id"])

    await brittle_service.running.retry_queue.skip(id_, origin, "enough")

    assert await brittle_service.running.retry_queue._try(id_, brittle_service.running.leases.held)
    with pytest.raises(retry_queue.DeadLetterNotFoundError):
        await brittle_service.running.retry_queue.skip(id_, origin, "again")
    statement = "SELECT subject FROM chassis.outbox WHERE aggregate LIKE 'dead-l%' ORDER BY position"
    rows = await databases.execute(url, "tenant", statement)
    assert [row["subject"].split(".")[4] for row in rows] == ["message_dead_lettered", "message_skipped"]


async def test_a_fact_that_is_stored_three_times_is_handled_once(served, publish, log, offerings) -> None:
    newer = offerings[0].model_copy(update={"content_hash": "d" * 64})

    await publish(newer, copies=3)

    facts = await log.facts("tenant.offering_noted", at_least=3)
    assert [fact.event.source_hash[0] for fact in facts if fact.event.offering == "plans"] == ["c", "d"]


async def test_a_second_replica_continues_where_the_first_one_stopped(start, served, publish, log, offerings) -> None:
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
    served.running.loops.tasks["leases"].cancel()
    await databases.execute(url, "tenant", "UPDATE chassis.lease SET owner = 'another', epoch = epoch + 1")

    await publish(offerings[0].model_copy(update={"content_hash": "f" * 64}))
    await until(lambda: _paused(served))

    after = await databases.execute(url, "tenant", "SELECT max(sequence) AS s FROM chassis.position")
    assert after[0]["s"] == before[0]["s"]


async def _paused(served) -> bool:
    return served.running.consumers["reader"]._changed or served.running.consumers["reader"]._ordered_consumer is None


@pytest.mark.own_nats
async def test_a_service_started_before_the_broker_consumes_and_publishes_once_it_is_up(
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
