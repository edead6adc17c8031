"""Rows that do not fit into one fact are refused before anything is recorded, with their number and columns."""

from typing import Any

import pytest
from gateway_world import FILES, RIGHTS, World, bundle_of, world
from paybill_agent_gateway.domain.calls import CallCaller
from paybill_agent_gateway.tables import RUNS
from paybill_contracts.agent_runs import ActionDone, ActionRefused, CallApprovalRequested
from paybill_runtime.http.listing import load_events

GRANTS = FILES["grants.cedar"] + (
    '@id("fixes") @columns("*") permit(principal in Role::"support", action == Action::"update", resource is refunds);'
)
CHANGE = """
workflow: change
role: support
input: {ticket: tickets.id}
once: [input.ticket]
limits: {calls: 12, rows: 200, minutes: 15}
steps:
  ticket: {read: tickets, where: {id: input.ticket}, one: true}
  change:
    update: refunds
    where: {order_id: ticket.order_id}
    set: {reason: {slot: text, max: 10000}}
    limit: 100
    APPROVAL
    irreversible: true
"""
LIST = """
workflow: list
role: support
input: {ticket: tickets.id}
limits: {calls: 12, rows: 40, minutes: 15}
steps:
  ticket: {read: tickets, where: {id: input.ticket}, one: true}
  refunds: {read: refunds, where: {order_id: ticket.order_id}, limit: 20, next: end}
"""
PERSONAL = FILES["resources.yaml"].replace("untrusted: [reason]", "untrusted: [reason], personal: [reason]")


async def add_refunds(gateway: World, agent: CallCaller, characters: int, count: int = 20) -> None:
    """Adds refunds of one order with texts of this length."""
    await gateway.pool.execute(
        f"INSERT INTO product.refunds SELECT '{agent.tenant_id}', 'r-' || number, 'o-1', 1,"  # our own
        f" repeat('ä', {characters}) FROM generate_series(1, {count}) AS number"
    )


async def facts(gateway: World, run: str) -> list[Any]:
    """Returns the facts of a run."""
    return [each.event for each in await load_events(gateway.gate.context, f"{RUNS.kind}/{run}", 100)]


@pytest.mark.parametrize(
    ("resources", "characters", "count"), [(FILES["resources.yaml"], 14_000, 20), (PERSONAL, 2_900, 80)]
)
async def test_a_request_for_an_approval_of_wide_rows_is_refused(
    start: Any, postgres: Any, resources: str, characters: int, count: int
) -> None:
    change = CHANGE.replace("APPROVAL", "approval: {within_minutes: 60}")
    async with world(start, postgres, bundle_of(grants=GRANTS, change=change, resources=resources), RIGHTS) as gateway:
        agent = await gateway.tenant()
        await add_refunds(gateway, agent, characters, count)
        run = await gateway.start(agent, "change", ticket="t-17")

        wide = await gateway.refused(gateway.take(agent, "change", run.run, run.seq, reason="new"))
        events = await facts(gateway, run.run)
        await gateway.pool.execute("UPDATE product.refunds SET reason = 'short'")
        short = await gateway.refused(gateway.take(agent, "change", run.run, run.seq, reason="new"))
        assert short.approval is not None
        await gateway.approve(short.approval.id, run.run)
        done = await gateway.take(agent, "change", run.run, run.seq, reason="new")

    assert wide.code == "rows_too_large"
    assert f"{count} rows x 4 columns; 524288 bytes are allowed" in str(wide)
    assert [type(each) for each in events[-1:]] == [ActionRefused]
    assert not any(isinstance(each, CallApprovalRequested) for each in events)
    assert (short.code, done.ended) == ("approval_required", "finished")


async def test_a_read_of_wide_rows_is_refused(start: Any, postgres: Any) -> None:
    async with world(start, postgres, bundle_of(grants=GRANTS, list=LIST), RIGHTS) as gateway:
        agent = await gateway.tenant()
        await add_refunds(gateway, agent, 14_000)

        waits = await gateway.start(agent, "list", ticket="t-17")
        refused = await gateway.refused(gateway.take(agent, "refunds", waits.run, waits.seq))
        await gateway.pool.execute("UPDATE product.refunds SET reason = 'short'")
        found = await gateway.take(agent, "refunds", waits.run, waits.seq)

    assert (waits.ended, waits.next[0].step) == (None, "refunds")
    assert refused.code == "rows_too_large"
    assert "the rows of refunds have" in str(refused)
    assert len(found.rows["refunds"]) == 20


async def test_a_write_whose_rows_fit_into_no_fact_is_recorded_without_them(start: Any, postgres: Any) -> None:
    change = CHANGE.replace("    APPROVAL\n", "")
    async with world(start, postgres, bundle_of(grants=GRANTS, change=change), RIGHTS) as gateway:
        agent = await gateway.tenant()
        await add_refunds(gateway, agent, 10)
        run = await gateway.start(agent, "change", ticket="t-17")

        done = await gateway.take(agent, "change", run.run, run.seq, reason="\u20ac" * 10_000)
        again = await gateway.take(agent, "change", run.run, run.seq, reason="\u20ac" * 10_000)
        (fact,) = [each for each in await facts(gateway, run.run) if isinstance(each, ActionDone) and each.verb][1:]
        changed = await gateway.pool.fetch("SELECT count(*) FROM product.refunds WHERE length(reason) = 10000")

    assert (done.ended, done) == ("finished", again)
    assert (fact.rows, fact.used.rows, changed) == ((), 20, [(20,)])


async def test_a_personal_value_that_is_too_long_is_refused(start: Any, postgres: Any) -> None:
    change = CHANGE.replace("    APPROVAL\n", "")
    bundle = bundle_of(grants=GRANTS, change=change, list=LIST, resources=PERSONAL)
    async with world(start, postgres, bundle, RIGHTS) as gateway:
        agent = await gateway.tenant()
        await add_refunds(gateway, agent, 10, 1)
        run = await gateway.start(agent, "change", ticket="t-17")

        long = await gateway.refused(gateway.take(agent, "change", run.run, run.seq, reason="a" * 5971))
        done = await gateway.take(agent, "change", run.run, run.seq, reason="a" * 5970)
        await gateway.pool.execute("UPDATE product.refunds SET reason = repeat('a', 6000)")
        waits = await gateway.start(agent, "list", ticket="t-17")
        read = await gateway.refused(gateway.take(agent, "refunds", waits.run, waits.seq))

    assert (long.code, read.code, done.ended) == ("rows_too_large", "rows_too_large", "finished")
    assert str(long) == "the personal value of reason has 5973 bytes; 5972 can be sealed in a fact"
