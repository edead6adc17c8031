"""Labels of a newer bundle bind the steps of a run that waits: the stricter label of both bundles counts."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway_world import FILES, RIGHTS, World, bundle_of, world
from paybill_contracts.agent_runs import RunEnd
from paybill_contracts.personal import Personal

TAG = """
workflow: tag
role: support
input: {ticket: tickets.id}
once: [input.ticket]
limits: {calls: 12, rows: 20, minutes: 15}
steps:
  ticket: {read: tickets, where: {id: input.ticket}, one: true}
  note: {compute: {copy: ticket.subject}}
  propose:
    create: refunds
    set: {id: run.id, order_id: ticket.id, amount: {slot: integer, min: 1, max: 2000}, reason: SOURCE}
    irreversible: true
"""
DIRECT, COMPUTED = TAG.replace("SOURCE", "ticket.subject"), TAG.replace("SOURCE", "note.copy")
RULE = '    approval: {within_minutes: 60, when: "amount > 1500"}\n'
LABELS = FILES["resources.yaml"].replace("{untrusted: [reason]}", "{}")
UNTRUSTED = LABELS.replace("{untrusted: [body]}", "{untrusted: [body, subject]}")
HIDDEN = LABELS.replace("{untrusted: [body]}", "{hidden: [subject]}")
NO_SUBJECT = DIRECT.replace("one: true}", "columns: [id, order_id], one: true}").replace(
    "ticket.subject", "ticket.order_id"
)
WORKFLOWS = pytest.mark.parametrize("workflow", [DIRECT, COMPUTED], ids=["field", "computed"])


@pytest.fixture
async def gateway(start: Any, postgres: Any) -> AsyncIterator[World]:
    async with world(start, postgres, rights=RIGHTS) as found:
        yield found


async def waiting(gateway: World, workflow: str) -> Any:
    """Starts a run that waits for its write, and returns its next call."""
    await gateway.publish(bundle_of(tag=workflow, resources=LABELS))
    agent = await gateway.tenant()
    run = await gateway.start(agent, "tag", ticket="t-17")
    return lambda: gateway.take(agent, "propose", run.run, run.seq, amount=5)


@WORKFLOWS
async def test_a_field_that_is_untrusted_now_needs_an_approval(gateway: World, workflow: str) -> None:
    with_rule = workflow + RULE
    call = await waiting(gateway, with_rule)
    await gateway.publish(bundle_of(tag=with_rule, resources=UNTRUSTED))

    waits = await gateway.refused(call())
    assert waits.approval is not None
    state = await gateway.run(waits.run or "")
    await gateway.approve(waits.approval.id, state.id)
    done = await call()

    assert (waits.code, done.ended) == ("approval_required", RunEnd.FINISHED)
    assert state.approval is not None
    assert state.approval.reason == "untrusted values: reason"
    assert await gateway.refunds() == [("t-17", 5, "Broken")]


@WORKFLOWS
async def test_without_a_rule_it_is_refused(gateway: World, workflow: str) -> None:
    call = await waiting(gateway, workflow)
    await gateway.publish(bundle_of(tag=workflow + RULE, resources=UNTRUSTED))
    refused = await gateway.refused(call())
    await gateway.publish(bundle_of(tag=workflow, resources=LABELS))
    done = await call()

    assert (refused.code, done.ended) == ("untrusted_value", RunEnd.FINISHED)


@WORKFLOWS
async def test_a_field_that_is_hidden_now_is_copied_nowhere(gateway: World, workflow: str) -> None:
    call = await waiting(gateway, workflow)
    await gateway.publish(bundle_of(tag=NO_SUBJECT, resources=HIDDEN))

    refused = await gateway.refused(call())

    assert refused.code == "not_permitted"
    assert "reason of propose" in str(refused)
    assert await gateway.refunds() == []


async def test_a_slot_whose_bound_is_hidden_now_is_refused(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")
    reads_less = FILES["refund.yaml"].replace("{id: ticket.order_id}, one", "{id: ticket.order_id}, columns: [id], one")
    hidden = FILES["resources.yaml"] + "orders: {hidden: [total]}\n"
    await gateway.publish(bundle_of(resources=hidden, refund=reads_less.replace("max: order.total", "max: 100")))

    refused = [
        await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=amount, reason="x"))
        for amount in (4500, 5)
    ]

    assert [each.code for each in refused] == ["not_permitted"] * 2
    assert await gateway.refunds() == []


async def test_a_column_that_is_trusted_now_takes_no_value_of_a_model(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")
    await gateway.publish(bundle_of(resources=LABELS))

    waits = await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=5, reason="x"))

    assert waits.code == "approval_required"


async def test_a_column_that_is_untrusted_only_now_stays_closed_to_a_run(gateway: World) -> None:
    await gateway.publish(bundle_of(resources=LABELS))
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")
    await gateway.publish(bundle_of())

    waits = await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=5, reason="x"))

    assert waits.code == "approval_required"


async def test_a_field_that_is_personal_now_is_sealed_in_facts(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")
    personal = FILES["resources.yaml"].replace("untrusted: [reason]", "untrusted: [reason], personal: [reason]")
    await gateway.publish(bundle_of(resources=personal))

    done = await gateway.take(agent, "propose", run.run, run.seq, amount=5, reason="a name")
    state = await gateway.run(run.run)

    assert done.values["propose"]["reason"] == "a name"
    assert isinstance(state.done[-1].rows[0]["reason"], Personal)
