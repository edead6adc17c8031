"""Journey of a fact from an HTTP request over the outbox to the stream, also during outages."""

import asyncio
from datetime import timedelta

import pytest
from paybill_contracts.envelope import Origin
from paybill_contracts.operations import RequestRefused, service_event
from paybill_contracts.sentences import sentence
from paybill_runtime.clock import new_id
from paybill_runtime.decisions import refusal_facts
from paybill_runtime.testing import until


async def _waiting(served) -> int:
    return (await served.client.get("/v1/operations")).json()["outbox_waiting"]


async def test_a_refusal_over_http_becomes_a_fact_in_the_trace_of_the_request(served, log) -> None:
    answer = await served.client.post("/v1/tenants/nobody/suspend", json={"mode": "blocked", "reason": "unpaid"})

    assert answer.status_code == 404
    assert answer.json()["code"] == "tenant_not_found"
    facts = await log.facts("tenant.request_refused")
    assert facts[0].event.code == "tenant_not_found"
    assert facts[0].origin.traceparent[3:35] == answer.json()["trace_id"]


async def test_a_caller_s_trace_continues_in_the_fact(served, log, sign_up) -> None:
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"

    await sign_up(served, traceparent=trace)

    fact = (await log.facts("tenant.tenant_requested"))[0]
    assert fact.origin.traceparent[3:35] == "ab" * 16


async def test_refusals_of_one_caller_become_facts_only_up_to_a_limit(served, log) -> None:
    answers = await asyncio.gather(*(served.client.post(f"/v1/tenants/nobody{n}/resume") for n in range(70)))

    assert {answer.status_code for answer in answers} == {404}
    assert len(await log.facts("tenant.request_refused", at_least=60)) == 60


async def test_the_limit_is_of_each_code_and_what_it_leaves_out_is_counted(served, log, monkeypatch) -> None:
    monkeypatch.setattr(refusal_facts, "MINUTE", timedelta(seconds=3))
    monkeypatch.setattr(refusal_facts, "PAUSE_S", 0.05)
    facts, refused = served.running.context.refusal_facts, service_event("tenant", RequestRefused)

    async def refuse(code: str, target: str) -> None:
        event = refused(refusal_id=new_id(), verb="show", code=code, target=target)
        await facts.add(Origin("c", "c", "agent:a", ""), event)

    served.running.loops.start("refusals again", facts.run)  # the service's own waits for its first pause
    await asyncio.gather(*(refuse("run_not_found", str(n)) for n in range(100)))
    await refuse("wrong_tenant", "acme")
    events = [fact.event for fact in await log.facts("tenant.request_refused", at_least=62)]

    assert [(each.code, each.left_out) for each in events if each.left_out or each.code == "wrong_tenant"] == [
        ("wrong_tenant", 0),
        ("run_not_found", 39),
    ]
    assert (len(events), events[-1].target) == (62, "99")
    assert sentence(events[-1]) == "show refused: run_not_found, and 39 more in the same minute"


@pytest.mark.own_nats
async def test_http_accepts_requests_during_a_nats_outage_and_the_outbox_drains_afterwards(
    served, nats, log, sign_up
) -> None:
    nats.kill()

    answer = await sign_up(served)

    assert answer.status_code == 202
    assert await _waiting(served) == 1
    ready = await served.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    nats.start()
    assert [fact.event.slug for fact in await log.facts("tenant.tenant_requested")] == ["acme"]
    assert await until(lambda: _drained(served))


async def _drained(served) -> bool:
    return await _waiting(served) == 0


async def test_facts_published_but_not_confirmed_are_found_in_the_stream_and_not_repeated(
    served, databases, log, sign_up
) -> None:
    await sign_up(served)
    await log.facts("tenant.tenant_requested")
    await until(lambda: _drained(served))
    url = str(served.running.settings.database_url)
    served.running.relay._sure = False
    await databases.execute(url, "tenant", "UPDATE chassis.publication SET sequence = NULL")
    served.running.relay.wake()

    await until(lambda: _drained(served))

    assert len(await log.facts("tenant.tenant_requested")) == 1
    rows = await databases.execute(url, "tenant", "SELECT sequence FROM chassis.publication ORDER BY position")
    assert [row["sequence"] for row in rows[1:]] == [  # the first one is about the signing key
        fact.sequence for fact in await log.facts() if fact.event.OWNER == "tenant"
    ]


@pytest.mark.own_nats
async def test_many_concurrent_facts_are_published_completely_and_in_order(served, nats, log, sign_up) -> None:
    nats.kill()
    answers = await asyncio.gather(*(sign_up(served, f"tenant-{n}") for n in range(60)))
    for answer in answers[:20]:
        await served.client.post(f"/v1/tenants/{answer.json()['id']}/offboard", json={"reason": "leaves"})
    nats.start()

    facts = await log.facts("tenant.tenant_requested", "tenant.tenant_cancelled", at_least=80)

    assert len(facts) == len({fact.id for fact in facts}) == 80
    for tenant in {fact.event.tenant_id for fact in facts}:
        assert [f.revision for f in facts if f.event.tenant_id == tenant] in ([1], [1, 2])


async def test_a_postgresql_outage_is_a_503_and_the_same_request_succeeds_afterwards(postgres, served, sign_up) -> None:
    postgres.kill()
    try:
        answer = await sign_up(served)
        ready = await served.client.get("/readyz")
    finally:
        postgres.start()

    assert answer.status_code == 503
    assert answer.json()["code"] == "database_unavailable"
    assert int(answer.headers["Retry-After"]) > 0
    assert ready.status_code == 503
    assert (await sign_up(served)).status_code == 202


@pytest.mark.parametrize("slugs", [["same", "same"]])
async def test_two_concurrent_requests_for_one_slug_create_one_tenant(served, sign_up, slugs) -> None:
    answers = await asyncio.gather(*(sign_up(served, slug) for slug in slugs))

    assert sorted(answer.status_code for answer in answers) == [202, 409]


async def test_a_refused_slug_does_not_affect_the_requests_in_its_transaction(served, sign_up) -> None:
    await sign_up(served, "taken")

    answers = await asyncio.gather(*(sign_up(served, slug) for slug in ["one", "taken", "two"]))

    assert [answer.status_code for answer in answers] == [202, 409, 202]
