"""Facts of refused calls: what was tried, by whom, and which grants decided. Nothing hidden is in them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway_world import FILES, World, bundle_of, world
from paybill_agent_gateway.domain.answers import Answer
from paybill_agent_gateway.domain.calls import CallCaller
from paybill_agent_gateway.tables import IN_FORCE
from paybill_contracts.agent_runs import ActionRefused
from paybill_contracts.event import encode
from paybill_contracts.personal import Personal
from paybill_contracts.sentences import sentence
from paybill_runtime.http.listing import load_state

PERSONAL = FILES["resources.yaml"].replace("untrusted: [reason]", "untrusted: [reason], personal: [reason]")
HIDDEN = FILES["resources.yaml"].replace("[body]", "[body], hidden: [subject]") + "orders: {hidden: [total]}\n"
FORBIDS = FILES["grants.cedar"] + (
    '@id("no large refunds") forbid(principal, action == Action::"create", resource is refunds)'
    " when { resource.amount > 1000 };"
)

NO_APPROVAL = FILES["refund.yaml"].replace('    approval: {when: "amount > 2000", within_minutes: 60}\n', "")


def reason(argument: str) -> str:
    """Returns the example's workflow, without an approval, with another reason of its refund."""
    changed = NO_APPROVAL.replace("reason: {slot: text, max: 200}", f"reason: {argument}")
    assert changed != NO_APPROVAL
    return changed


@pytest.fixture
async def gateway(start: Any, postgres: Any) -> AsyncIterator[World]:
    async with world(start, postgres) as found:
        yield found


async def refusal_of(gateway: World, log: Any, call: Any, at_least: int = 1) -> ActionRefused:
    """Returns the fact of a refused call, the last one."""
    refused = await gateway.refused(call)
    event = (await log.facts("agent-gateway.action_refused", at_least=at_least))[-1].event

    assert refused.code == event.code
    return event


async def started(gateway: World, **changed: str) -> tuple[CallCaller, Answer]:
    """Starts a run under a bundle with these files, which stays in force."""
    if changed:
        await gateway.publish(bundle_of(**changed))
    agent = await gateway.tenant()
    return agent, await gateway.start(agent, ticket="t-18")


async def in_force(gateway: World) -> str:
    found = await load_state(gateway.gate.context, IN_FORCE, "support-agent")
    assert found is not None
    return found.bundle_hash


async def test_a_denied_call_is_a_fact_with_its_arguments_and_the_bundle_that_denied_it(gateway: World, log) -> None:
    agent, run = await started(gateway)
    narrow = await gateway.publish(bundle_of(grants=FORBIDS))

    call = gateway.take(agent, "propose", run.run, run.seq, amount=1200, reason="broken")
    event = await refusal_of(gateway, log, call)

    assert event.arguments == {"id": run.run, "order_id": "o-2", "amount": 1200, "reason": "broken"}
    assert (event.verb, event.resource, event.called, event.workflow) == ("create", "refunds", "propose", "refund")
    assert (event.agent_id, event.grants, event.grants_hash) == (agent.agent_id, ("no large refunds",), narrow)
    assert event.bundle_hash != narrow
    assert event.digest is not None
    assert sentence(event).startswith(
        f"{run.run} seq {run.seq}: refund.propose by {agent.agent_id} refused, not_permitted: "
    )
    assert "no large refunds" in sentence(event)


async def test_a_call_is_refused_under_the_digest_that_its_intent_would_have(gateway: World, log) -> None:
    agent, run = await started(gateway)
    in_between = await gateway.publish(bundle_of(grants=FORBIDS))
    values = {"amount": 1200, "reason": "broken"}

    event = await refusal_of(gateway, log, gateway.take(agent, "propose", run.run, run.seq, **values))
    await gateway.publish(bundle_of())
    await gateway.take(agent, "propose", run.run, run.seq, **values)
    (intended,) = await log.facts("agent-gateway.action_intended")

    assert event.grants_hash == in_between
    assert (event.digest, event.arguments) == (intended.event.digest, intended.event.arguments)


@pytest.mark.parametrize("amount", ["x", 2**70, {"a": [1]}, -1])
async def test_a_call_that_does_not_fit_its_step_is_a_fact_without_arguments(gateway: World, log, amount) -> None:
    agent, run = await started(gateway)

    call = gateway.take(agent, "propose", run.run, run.seq, amount=amount, reason="secret-" * 1000)
    event = await refusal_of(gateway, log, call)

    assert (event.code, event.called, event.agent_id) == ("invalid_input", "propose", agent.agent_id)
    assert (event.arguments, event.verb, event.resource, event.grants, event.grants_hash) == (
        None,
        None,
        None,
        (),
        None,
    )
    assert (event.digest is None) is (amount == 2**70)
    assert b"secret" not in encode(event)


@pytest.mark.parametrize("step", ["order", "no_such_step", "X" * 5000, "a b\n", ""])
async def test_a_refused_call_names_the_step_that_was_tried(gateway: World, log, step: str) -> None:
    agent, run = await started(gateway)

    event = await refusal_of(gateway, log, gateway.take(agent, step, run.run, run.seq))

    assert (event.code, event.step) == ("step_not_allowed", "propose")
    assert event.called == (step if step in {"order", "no_such_step"} else None)
    assert len(encode(event)) < 2000


async def test_done_actions_name_the_bundle_whose_grants_permitted_them(gateway: World, log) -> None:
    agent, run = await started(gateway)
    own = await in_force(gateway)
    newer = await gateway.publish(bundle_of(grants=FORBIDS))

    await gateway.take(agent, "propose", run.run, run.seq, amount=900, reason="broken")
    (intended,) = await log.facts("agent-gateway.action_intended")
    *reads, written = await log.facts("agent-gateway.action_done", at_least=3)

    assert own != newer
    assert {(fact.event.bundle_hash, fact.event.grants_hash) for fact in reads} == {(own, own)}
    assert {(fact.event.bundle_hash, fact.event.grants_hash) for fact in (intended, written)} == {(own, newer)}


async def test_a_frozen_call_is_a_fact_with_its_digest_alone(gateway: World, log) -> None:
    agent, run = await started(gateway)
    await gateway.freeze("workflow/refund")

    event = await refusal_of(
        gateway, log, gateway.take(agent, "propose", run.run, run.seq, amount=1200, reason="broken")
    )

    assert (event.code, event.arguments, event.called) == ("frozen", None, "propose")
    assert event.digest is not None


async def test_personal_arguments_of_a_refused_call_are_sealed(gateway: World, log) -> None:
    agent, run = await started(gateway, resources=PERSONAL)
    await gateway.publish(bundle_of(resources=PERSONAL, grants=FORBIDS))

    call = gateway.take(agent, "propose", run.run, run.seq, amount=1200, reason="Ann is ill")
    event = await refusal_of(gateway, log, call)

    assert event.arguments is not None
    sealed = event.arguments["reason"]
    assert isinstance(sealed, Personal)
    assert b"ill" not in encode(event)
    assert await gateway.gate.context.open(sealed) == '"Ann is ill"'


async def test_an_argument_that_is_personal_in_the_bundle_in_force_is_sealed(gateway: World, log) -> None:
    agent, run = await started(gateway)
    await gateway.publish(bundle_of(resources=PERSONAL, grants=FORBIDS))

    call = gateway.take(agent, "propose", run.run, run.seq, amount=1200, reason="Ann is ill")
    event = await refusal_of(gateway, log, call)

    assert event.arguments is not None
    assert isinstance(event.arguments["reason"], Personal)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("ticket.subject", "Late"), ('{text: "of ${order.total}"}', "of 9000"), ("note.subject", "Late")],
)
async def test_a_refused_call_has_no_argument_of_a_field_that_is_hidden_now(
    gateway: World, log: Any, argument: str, value: str
) -> None:
    computed = "  note: {compute: {subject: ticket.subject}}\n  propose:"
    agent, run = await started(gateway, refund=reason(argument).replace("  propose:", computed))
    before = await refusal_of(gateway, log, gateway.take(agent, "propose", run.run, run.seq, amount=6000))
    await gateway.publish(bundle_of(resources=HIDDEN, refund=NO_APPROVAL.replace("order.total", "9000")))

    after = await refusal_of(gateway, log, gateway.take(agent, "propose", run.run, run.seq, amount=6000), at_least=2)

    assert before.arguments is not None
    assert before.arguments["reason"] == value
    assert after.arguments == {"id": run.run, "order_id": "o-2", "amount": 6000}
    assert value.encode() not in encode(after)


async def test_a_refused_call_has_no_argument_for_a_column_that_is_hidden_now(gateway: World, log) -> None:
    agent, run = await started(gateway)
    resources = FILES["resources.yaml"].replace("untrusted: [reason]", "hidden: [reason]")
    without = NO_APPROVAL.replace(", reason: {slot: text, max: 200}", "")
    grants = FILES["grants.cedar"].replace("amount, reason", "amount")
    await gateway.publish(bundle_of(resources=resources, refund=without, grants=grants))

    call = gateway.take(agent, "propose", run.run, run.seq, amount=1200, reason="broken")
    event = await refusal_of(gateway, log, call)

    assert event.code == "not_permitted"
    assert event.arguments == {"id": run.run, "order_id": "o-2", "amount": 1200}


async def test_arguments_that_are_too_large_for_a_refusal_are_known_by_their_digest(gateway: World, log) -> None:
    await gateway.publish(bundle_of(refund=reason("ticket.body")))
    agent = await gateway.tenant()
    await gateway.pool.execute("UPDATE product.tickets SET body = repeat('x', 50000)")
    run = await gateway.start(agent, ticket="t-18")

    event = await refusal_of(gateway, log, gateway.take(agent, "propose", run.run, run.seq, amount=6000))

    assert (event.arguments, event.verb, event.resource) == (None, "create", "refunds")
    assert event.digest is not None
    assert event.grants_hash == await in_force(gateway)
    assert len(encode(event)) < 2000


async def test_a_refused_start_is_found_by_its_tenant(gateway: World, log) -> None:
    agent = await gateway.tenant()
    await gateway.freeze("everything")

    await gateway.refused(gateway.start(agent, ticket="t-18"))
    await gateway.refused(gateway.take(agent, "propose", "run_" + "0" * 32, 1))
    refused = await log.facts("agent-gateway.request_refused", at_least=2)

    assert {fact.event.tenant for fact in refused} == {agent.tenant_id}
    assert [sentence(fact.event) for fact in refused] == [
        f"act refund by {agent.subject} refused: frozen",
        f"act propose of run_{'0' * 32} by {agent.subject} refused: run_not_found",
    ]
