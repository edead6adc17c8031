"""Rules about approvals on real servers: rows that change meanwhile, and the columns that an agent gets."""

from typing import Any

import pytest
from gateway_world import FILES, RIGHTS, bundle_of, world
from paybill_agent_gateway.domain.calls import CallCaller
from paybill_contracts.approval import ApprovalMismatchError

GRANTS = FILES["grants.cedar"] + (
    '@id("fixes") @columns("id, reason") permit(principal in Role::"support", action == Action::"update", '
    "resource is refunds);"
)
SETTLE = """
workflow: settle
role: support
input: {refund: refunds.id}
once: [input.refund]
limits: {calls: 12, rows: 20, minutes: 15}
steps:
  refund: {read: refunds, columns: [id], where: {id: input.refund}, one: true}
  change:
    update: refunds
    where: {id: refund.id}
    set: {reason: {slot: text, max: 200}}
    limit: 1
    approval: {when: "amount > 2000", within_minutes: 60}
    irreversible: true
"""


async def test_a_row_that_outgrows_the_rule_meanwhile_is_not_written(start: Any, postgres: Any) -> None:
    async with world(start, postgres, bundle_of(grants=GRANTS, settle=SETTLE), RIGHTS) as gateway:
        agent = await gateway.tenant()
        values = f"'{agent.tenant_id}', 'r-1', 'o-1', 1000, 'old'"
        await gateway.pool.execute(f"INSERT INTO product.refunds VALUES ({values})")  # our own
        run = await gateway.start(agent, "settle", refund="r-1")
        write = gateway.gate.databases.write

        async def write_later(*arguments: Any, **options: Any) -> Any:
            await gateway.pool.execute("UPDATE product.refunds SET amount = 9000")
            return await write(*arguments, **options)

        gateway.gate.databases.write = write_later  # type: ignore[method-assign]  # another writer is first
        changed = await gateway.refused(gateway.take(agent, "change", run.run, run.seq, reason="new"))
        gateway.gate.databases.write = write  # type: ignore[method-assign]  # as before
        large = await gateway.refused(gateway.take(agent, "change", run.run, changed.seq or 0, reason="new"))
        refunds = await gateway.refunds()

    assert (changed.code, large.code) == ("rows_changed", "approval_required")
    assert refunds == [("o-1", 9000, "old")]


async def test_columns_of_rules_and_conditions_do_not_get_into_the_answer(start: Any, postgres: Any) -> None:
    grants = (
        '@id("reads") @columns("id") permit(principal in Role::"support", action == Action::"read", '
        "resource is refunds);\n"
        '@id("others") @columns("*") permit(principal in Role::"support", action == Action::"read", '
        "resource is orders);\n"
        '@id("tickets") @columns("*") permit(principal in Role::"support", action == Action::"read", '
        "resource is tickets);\n"
        '@id("small") @columns("*") permit(principal in Role::"support", action == Action::"create", '
        "resource is refunds) when { resource.amount <= 5000 };\n"
        '@id("fixes") @columns("id, reason") permit(principal in Role::"support", action == Action::"update", '
        'resource is refunds) when { resource.order_id like "o*" };'
    )
    async with world(start, postgres, bundle_of(grants=grants, settle=SETTLE), RIGHTS) as gateway:
        agent = await gateway.tenant()
        values = f"'{agent.tenant_id}', 'r-1', 'o-1', 1000, 'old'"
        await gateway.pool.execute(f"INSERT INTO product.refunds VALUES ({values})")  # our own
        run = await gateway.start(agent, "settle", refund="r-1")
        done = await gateway.take(agent, "change", run.run, run.seq, reason="new")
        state = await gateway.run(run.run)
        refunds = await gateway.refunds()

    assert refunds == [("o-1", 1000, "new")]
    assert done.values["change"] == {"id": "r-1", "reason": "new"}
    assert state.done[-1].rows == ({"id": "r-1", "reason": "new"},)


async def test_neither_who_started_the_run_nor_who_called_may_approve(start: Any, postgres: Any) -> None:
    async with world(start, postgres) as gateway:
        agent = await gateway.tenant()
        ann, bob = (CallCaller(agent.tenant_id, f"user:{name}") for name in ("ann", "bob"))
        run = await gateway.start(ann, ticket="t-17")

        def call() -> Any:
            return gateway.take(bob, "propose", run.run, run.seq, amount=3000, reason="mine")

        waits = await gateway.refused(call())
        assert waits.approval is not None
        for approver in (ann, bob):
            with pytest.raises(ApprovalMismatchError):
                await gateway.approve(waits.approval.id, run.run, approver.subject)
        approval = (await gateway.run(run.run)).approval
        await gateway.approve(waits.approval.id, run.run, "user:cid")
        done = await call()

    assert approval is not None
    assert (approval.requester, done.ended) == ("user:bob", "finished")


async def test_a_run_is_returned_for_its_own_inputs_alone(start: Any, postgres: Any) -> None:
    with_order = FILES["refund.yaml"].replace(
        "input: {ticket: tickets.id}", "input: {ticket: tickets.id, order: orders.id}"
    )
    with_order = with_order.replace("where: {id: ticket.order_id}", "where: {id: input.order}")
    async with world(start, postgres, bundle_of(refund=with_order)) as gateway:
        agent = await gateway.tenant()
        ann = CallCaller(agent.tenant_id, "user:ann")
        run = await gateway.start(agent, ticket="t-17", order="o-2")
        again = await gateway.start(agent, request="another", ticket="t-17", order="o-2")
        other = await gateway.refused(gateway.start(ann, ticket="t-17", order="o-1"))

    assert run == again
    assert (other.code, other.document()["next"]) == ("inputs_differ", [])


CLOSES = """
CREATE FUNCTION product.f() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN DELETE FROM product.tickets WHERE tenant_id = NEW.tenant_id AND id LIKE 'x%'; RETURN NULL; END $$;
CREATE TRIGGER t AFTER INSERT ON product.refunds FOR EACH ROW EXECUTE FUNCTION product.f();
"""
DECLARED = FILES["resources.yaml"].replace("{untrusted: [reason]}", "{untrusted: [reason], also_changes: [tickets]}")


async def test_rows_of_other_tables_are_shown_approved_and_counted(start: Any, postgres: Any) -> None:
    async with world(start, postgres, bundle_of(resources=DECLARED), RIGHTS) as gateway:
        agent = await gateway.tenant()

        async def add_tickets(first: int, last: int) -> None:
            await gateway.pool.execute(
                "INSERT INTO product.tickets (tenant_id, id, order_id, body)"  # our own
                f" SELECT '{agent.tenant_id}', 'x' || n, 'o-1', '' FROM generate_series({first}, {last}) AS n"
            )

        await gateway.pool.execute(CLOSES)
        run = await gateway.start(agent, ticket="t-17")
        await add_tickets(1, 900)
        many = await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=3000, reason="late"))
        await gateway.pool.execute("DELETE FROM product.tickets WHERE id LIKE 'x%' AND id NOT IN ('x1', 'x2')")
        asked = await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=3000, reason="late"))
        waiting = (await gateway.run(run.run)).approval
        assert asked.approval is not None
        await gateway.approve(asked.approval.id, run.run)
        await add_tickets(3, 3)
        changed = await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=3000, reason="late"))
        again = await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=3000, reason="late"))
        assert again.approval is not None
        await gateway.approve(again.approval.id, run.run)
        before = (await gateway.run(run.run)).used.rows
        await gateway.take(agent, "propose", run.run, run.seq, amount=3000, reason="late")
        done = await gateway.run(run.run)

    assert [each.code for each in (many, asked, changed, again)] == [
        "too_many_rows", "approval_required", "rows_changed", "approval_required",
    ]  # fmt: skip
    assert waiting is not None
    assert waiting.other_rows == {"tickets": 2}
    assert (done.ended, done.used.rows - before) == ("finished", 4)
