"""Messages in: each handled once, none blocking another tenant's; what fails waits where an operator sees it."""

from dataclasses import replace

import pytest
from paybill_contracts.tenant import TenantRequested
from paybill_runtime import parking
from paybill_runtime.hearing import Hearing
from paybill_runtime.testing import until
from paybill_tenant.app import service


class _Brittle:
    """A handler that fails for one tenant until it is mended."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.broken_for = ""

    def hearing(self) -> Hearing:
        hears = Hearing()
        hears.facts.update(service().hears.facts)

        @hears.fact(TenantRequested)
        def requested(_unit, fact, _at) -> None:
            if fact.slug.startswith(self.broken_for):
                raise RuntimeError("a bug in a handler")
            self.heard.append(fact.slug)

        return hears


@pytest.fixture
def brittle() -> _Brittle:
    return _Brittle()


@pytest.fixture
async def specimen(start, say, log, offerings, brittle, monkeypatch):
    monkeypatch.setattr(parking, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(parking, "POLL_S", 0.02)
    monkeypatch.setattr(parking, "MAX_ATTEMPTS", 3)
    brittle.broken_for = "bad"
    running = await start(replace(service(), hears=brittle.hearing()))
    await say(*offerings)
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


async def test_a_fact_that_is_stored_three_times_is_heard_once(served, say, log, offerings) -> None:
    newer = offerings[0].model_copy(update={"content_hash": "d" * 64})

    await say(newer, copies=3)

    facts = await log.facts("tenant.offering_noted", at_least=3)
    assert [fact.event.source_hash[0] for fact in facts if fact.event.offering == "plans"] == ["c", "d"]


async def test_a_second_replica_takes_over_where_the_first_one_ended(start, served, say, log, offerings) -> None:
    second = await start(service(), url=served.running.settings.database_url)
    await until(lambda: _shares(served, second))
    await served.running.__aexit__(None, None, None)
    await second.running.leases.tick()

    await say(offerings[0].model_copy(update={"content_hash": "e" * 64}))

    facts = await log.facts("tenant.offering_noted", at_least=3)
    assert facts[-1].event.source_hash == "e" * 64
    assert len(second.running.leases.partitions()) == 16


async def _shares(first, second) -> bool:
    await first.running.leases.tick()
    await second.running.leases.tick()
    return len(first.running.leases.partitions()) == len(second.running.leases.partitions()) == 8


async def test_an_owner_that_lost_its_lease_cannot_commit(served, say, databases, offerings) -> None:
    url = str(served.running.settings.database_url)
    before = await databases.execute(url, "tenant", "SELECT max(sequence) AS s FROM chassis.position")
    served.running._tasks["leases"].cancel()
    await databases.execute(url, "tenant", "UPDATE chassis.lease SET owner = 'another', epoch = epoch + 1")

    await say(offerings[0].model_copy(update={"content_hash": "f" * 64}))
    await until(lambda: _paused(served))

    after = await databases.execute(url, "tenant", "SELECT max(sequence) AS s FROM chassis.position")
    assert after[0]["s"] == before[0]["s"]


async def _paused(served) -> bool:
    return served.running.readers["reader"]._changed or served.running.readers["reader"]._feed is None
