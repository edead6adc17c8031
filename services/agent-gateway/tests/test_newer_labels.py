"""Labels of a newer bundle bind the steps of a run that waits: the stricter label of both bundles counts."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway_world import FILES, RIGHTS, World, bundle_of, world
from paybill_agent_gateway.domain.workflows import CompiledBundle
from paybill_contracts.agent_runs import RunEnd
from paybill_contracts.event import digest
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
PICK = """  ask: {compute: {is_sure: {slot: boolean}}}
  late: {compute: {is_late: {when: "ticket has subject && ticket.subject == \\"Late\\""}}}
  pick:
    choose:
      first: {next: propose, when: "late.is_late"}
      second: {next: propose, when: "!late.is_late"}
  propose:"""
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


def conditional(when: str) -> str:
    """Returns a workflow whose approval depends on a field that no argument uses."""
    return NO_SUBJECT.replace("columns: [id, order_id], ", "") + RULE.replace("amount > 1500", when)


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


@pytest.mark.parametrize("name", ["ticket.subject", "note.copy"])
async def test_an_approval_that_depends_on_a_field_that_is_hidden_now_is_refused(gateway: World, name: str) -> None:
    guard = name.replace(".", " has ")
    when = f'{guard} && {name} == \\"Late\\"'
    copied = conditional(when).replace("copy: ticket.order_id", "copy: ticket.subject")
    call = await waiting(gateway, copied)
    await gateway.publish(bundle_of(tag=NO_SUBJECT, resources=HIDDEN))

    refused = await gateway.refused(call())
    await gateway.publish(bundle_of(tag=copied, resources=LABELS))
    done = await call()

    assert (refused.code, done.ended) == ("not_permitted", RunEnd.FINISHED)
    assert f"a condition of propose names {name}" in str(refused)


async def test_a_choice_that_depends_on_a_field_that_is_hidden_now_is_refused(gateway: World) -> None:
    chooses = NO_SUBJECT.replace("columns: [id, order_id], ", "").replace("  propose:", PICK)
    await gateway.publish(bundle_of(tag=chooses, resources=LABELS))
    agent = await gateway.tenant()
    run = await gateway.start(agent, "tag", ticket="t-17")
    await gateway.publish(bundle_of(tag=NO_SUBJECT, resources=HIDDEN))

    asked = await gateway.take(agent, "ask", run.run, run.seq, is_sure=True)
    refused = await gateway.refused(gateway.take(agent, "pick", run.run, asked.seq, choice="first"))
    await gateway.freeze("workflow/tag")
    frozen = await gateway.refused(gateway.take(agent, "pick", run.run, asked.seq, choice="first"))

    assert [(each.step, each.choices) for each in asked.next] == [("pick", ())]
    assert (refused.code, [each.choices for each in refused.next]) == ("not_permitted", [()])
    assert (frozen.code, [each.choices for each in frozen.next]) == ("frozen", [()])
    assert "pick names late.is_late" in str(refused)
    assert (await gateway.run(run.run)).ended is None


def test_labels_are_compiled_once_for_two_bundles() -> None:
    own, newer = (CompiledBundle.of(digest(each), each) for each in (bundle_of(), bundle_of(resources=LABELS)))

    assert own.labelled(own, "refund") is own
    assert own.labelled(newer, "refund") is own.labelled(newer, "refund")
    assert own.labelled(newer, "refund") is not newer.labelled(own, "refund")
