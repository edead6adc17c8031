"""Rules about approvals on real servers: rows that change meanwhile, and the columns that an agent gets."""

from typing import Any

from gateway_world import FILES, RIGHTS, bundle_of, world

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

        async def write_later(*arguments: Any) -> Any:
            await gateway.pool.execute("UPDATE product.refunds SET amount = 9000")
            return await write(*arguments)

        gateway.gate.databases.write = write_later  # type: ignore[method-assign]  # another writer is first
        changed = await gateway.refused(gateway.take(agent, "change", run.run, run.seq, reason="new"))
        gateway.gate.databases.write = write  # type: ignore[method-assign]  # as before
        large = await gateway.refused(gateway.take(agent, "change", run.run, changed.seq or 0, reason="new"))
        refunds = await gateway.refunds()

    assert (changed.code, large.code) == ("rows_changed", "approval_required")
    assert refunds == [("o-1", 9000, "old")]
