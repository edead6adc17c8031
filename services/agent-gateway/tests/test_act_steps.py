"""Calls of workflows with choices, computed values, updates and personal columns, on real servers."""

from typing import Any

from gateway_world import FILES, RIGHTS, bundle_of, world
from paybill_agent_gateway.domain.runs import ApprovalStatus
from paybill_contracts.personal import Personal

GRANTS = FILES["grants.cedar"] + (
    '@id("fixes") @columns("id, reason, amount") '
    'permit(principal in Role::"support", action == Action::"update", resource is refunds);'
)
FIX = """
workflow: fix
role: support
input: {refund: refunds.id}
once: [input.refund]
limits: {calls: 12, rows: 20, minutes: 15}
steps:
  refund: {read: refunds, where: {id: input.refund}, columns: [id, amount, reason], one: true}
  size: {compute: {note: {text: "Refund ${refund.id}"}, large: {when: "refund.amount > 1000"}}}
  path:
    choose:
      big: {when: "size.large", next: correct}
      small: {when: "!size.large", next: end}
      skip: {when: "size.large", next: end}
  correct:
    update: refunds
    where: {id: refund.id}
    set: {reason: {slot: text, max: 50}}
    limit: 1
    approval: {within_minutes: 60}
    irreversible: true
"""
RESOURCES = FILES["resources.yaml"].replace("untrusted: [reason]", "untrusted: [reason], personal: [reason]")


async def test_a_changed_row_is_not_written_with_an_old_approval(start: Any, postgres: Any) -> None:
    bundle = bundle_of(grants=GRANTS, fix=FIX, resources=RESOURCES)
    async with world(start, postgres, bundle, RIGHTS) as gateway:
        agent = await gateway.tenant()
        for name, amount in (("r-1", 5), ("r-2", 2000)):
            values = f"'{agent.tenant_id}', '{name}', 'o-1', {amount}, 'a secret reason'"
            await gateway.pool.execute(f"INSERT INTO product.refunds VALUES ({values})")  # our own

        small = await gateway.start(agent, "fix", refund="r-1")
        large = await gateway.start(agent, "fix", refund="r-2")
        again = await gateway.start(agent, "fix", refund="r-2")
        chosen = await gateway.take(agent, "path", large.run, large.seq, choice="big")

        def call() -> Any:
            return gateway.take(agent, "correct", large.run, chosen.seq, reason="better")

        waits = await gateway.refused(call())
        assert waits.approval is not None
        await gateway.approve(waits.approval.id, large.run)
        await gateway.pool.execute("UPDATE product.refunds SET reason = 'another' WHERE id = 'r-2'")
        changed = await gateway.refused(call())
        second = await gateway.refused(call())
        assert second.approval is not None
        await gateway.approve(second.approval.id, large.run)
        done = await call()
        state = await gateway.run(large.run)

    assert (small.ended, small.values["path"]) == ("finished", {"choice": "small"})
    assert large.values["size"] == {"note": "Refund r-2", "large": True}
    assert large.values["refund"]["reason"] == "a secret reason"
    assert again == large
    assert large.next[0].choices == ("big", "skip")
    assert [waits.code, changed.code, second.code] == ["approval_required", "rows_changed", "approval_required"]
    assert (done.ended, done.values["correct"]["reason"]) == ("finished", "better")
    assert isinstance(state.done[0].rows[0]["reason"], Personal)
    assert [each.status for each in state.earlier_approvals] == [ApprovalStatus.EXPIRED, ApprovalStatus.USED]


async def test_an_approver_sees_all_readable_columns_and_the_agent_those_it_named(start: Any, postgres: Any) -> None:
    bundle = bundle_of(grants=GRANTS, fix=FIX.replace("columns: [id, amount, reason]", "columns: [id, amount]"))
    async with world(start, postgres, bundle, RIGHTS) as gateway:
        agent = await gateway.tenant()
        values = f"'{agent.tenant_id}', 'r-2', 'o-1', 2000, 'old'"
        await gateway.pool.execute(f"INSERT INTO product.refunds VALUES ({values})")  # our own
        run = await gateway.start(agent, "fix", refund="r-2")
        chosen = await gateway.take(agent, "path", run.run, run.seq, choice="big")

        def call() -> Any:
            return gateway.take(agent, "correct", run.run, chosen.seq, reason="better")

        waits = await gateway.refused(call())
        assert waits.approval is not None
        approval = (await gateway.run(run.run)).approval
        await gateway.approve(waits.approval.id, run.run)
        await gateway.pool.execute("UPDATE product.refunds SET order_id = 'o-2' WHERE id = 'r-2'")
        changed = await gateway.refused(call())
        second = await gateway.refused(call())
        assert second.approval is not None
        await gateway.approve(second.approval.id, run.run)
        done = await call()

    before = {"id": "r-2", "order_id": "o-1", "amount": 2000, "reason": "old"}
    assert approval is not None
    assert [(each.before, each.after) for each in approval.rows] == [(before, before | {"reason": "better"})]
    assert changed.code == "rows_changed"
    assert done.values["correct"] == {"id": "r-2", "reason": "better"}
