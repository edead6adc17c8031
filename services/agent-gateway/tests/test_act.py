"""Calls through `act` on real servers: the example's workflow, its refusals and its approvals."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from gateway_samples import METERED
from gateway_world import World, bundle_of, world
from paybill_agent_gateway.domain.budgets import day_id
from paybill_agent_gateway.domain.runs import ApprovalStatus
from paybill_agent_gateway.tables import DAYS
from paybill_contracts.agent_bundles import Amounts
from paybill_contracts.agent_runs import BudgetReserved, RunEnd
from paybill_contracts.agent_tenants import AgentTenantStatus
from paybill_contracts.approval import ApprovalMismatchError
from paybill_runtime.clock import now
from paybill_runtime.testing import until


@pytest.fixture
async def gateway(start: Any, postgres: Any) -> AsyncIterator[World]:
    async with world(start, postgres) as found:
        yield found


async def test_a_refund_needs_two_calls_and_is_one_row(gateway: World) -> None:
    agent = await gateway.tenant()

    run = await gateway.start(agent, ticket="t-17")
    done = await gateway.take(agent, "propose", run.run, run.seq, amount=1200, reason="broken")

    assert run.values["order"] == {"id": "o-1", "customer_id": "c-1", "item": "lamp", "total": 4500}
    assert [(each.tool, each.slots) for each in run.next] == [("refund__propose", ("amount", "reason"))]
    assert (run.seq, run.ended) == (3, None)
    assert (done.ended, done.values["propose"]["amount"], done.next) == ("finished", 1200, ())
    assert await gateway.refunds() == [("o-1", 1200, "broken")]
    run = await gateway.run(run.run)
    assert (run.used.calls, run.used.rows, run.used.sums, run.actions) == (3, 3, {"refunds.amount": 1200}, 3)
    await until(lambda: gateway.settled(agent.tenant_id))


async def test_a_repeated_call_gets_the_same_answer_and_has_one_effect(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")

    answers = [await gateway.take(agent, "propose", run.run, run.seq, amount=1200, reason="broken") for _ in range(3)]
    other = await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=1, reason="broken"))

    assert answers[0] == answers[1] == answers[2]
    assert other.code == "run_ended"
    assert len(await gateway.refunds()) == 1


async def test_another_call_under_a_used_number_is_refused(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")

    reused = await gateway.refused(gateway.take(agent, "propose", run.run, 1, amount=1, reason="x"))
    ahead = await gateway.refused(gateway.take(agent, "propose", run.run, 9, amount=1, reason="x"))
    wrong = await gateway.refused(gateway.take(agent, "order", run.run, run.seq))

    assert [each.code for each in (reused, ahead, wrong)] == ["seq_reused", "wrong_seq", "step_not_allowed"]
    assert wrong.next[0].step == "propose"
    assert (await gateway.run(run.run)).used.calls == 5


async def test_a_ticket_is_refunded_once_whichever_agent_starts(gateway: World) -> None:
    first = await gateway.tenant()
    second = await gateway.agent(first.tenant_id)

    run = [await gateway.start(each, request=each.subject, ticket="t-17") for each in (first, second)]
    await gateway.take(second, "propose", run[1].run, run[1].seq, amount=5, reason="x")
    again = await gateway.start(first, request="new", ticket="t-17")

    assert run[0] == run[1]
    assert (again.run, again.ended, again.values["propose"]["amount"]) == (run[0].run, "finished", 5)


async def test_slots_outside_their_type_and_bounds_are_refused(gateway: World) -> None:
    agent = await gateway.tenant()
    run = [await gateway.start(agent, ticket=ticket) for ticket in ("t-17", "t-18")]
    hostile: list[dict[str, Any]] = [
        {"amount": 9001, "reason": "x"},
        {"amount": 0, "reason": "x"},
        {"amount": "5", "reason": "x"},
        {"amount": True, "reason": "x"},
        {"amount": 1.5, "reason": "x"},
        {"amount": 2**63, "reason": "x"},
        {"amount": float("nan"), "reason": "x"},
        {"amount": 5, "reason": "a\0b"},
        {"amount": 5, "reason": "\ud800"},
        {"amount": 5, "reason": "x" * 201},
        {"amount": 5},
        {"amount": 5, "reason": None},
        {"amount": 5, "reason": "x", "order_id": "o-2"},
    ]

    refused = [
        await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, **values))
        for values, run in zip(hostile, run * len(hostile), strict=False)
    ]

    assert {each.code for each in refused} == {"invalid_input"}
    assert await gateway.refunds() == []


async def test_a_large_refund_waits_for_another_person_and_is_executed_once(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")

    def call() -> Any:
        return gateway.take(agent, "propose", run.run, run.seq, amount=3000, reason="broken")

    waits, polled = await gateway.refused(call()), await gateway.refused(call())
    assert waits.approval is not None
    assert polled.approval == waits.approval
    other = await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=2500, reason="broken"))
    with pytest.raises(ApprovalMismatchError):
        await gateway.approve(waits.approval.id, run.run, approver="service:bot")
    await gateway.approve(waits.approval.id, run.run)
    done = await call()

    assert [waits.code, polled.code, other.code] == ["approval_required", "approval_required", "seq_reused"]
    assert done.ended == "finished"
    assert await call() == done
    assert await gateway.refunds() == [("o-1", 3000, "broken")]
    assert (await gateway.run(run.run)).earlier_approvals[0].status is ApprovalStatus.USED


async def test_polling_costs_no_call_and_does_not_void_the_approval(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")

    def call() -> Any:
        return gateway.take(agent, "propose", run.run, run.seq, amount=3000, reason="broken")

    waits = await gateway.refused(call())
    assert waits.approval is not None
    state = await gateway.run(run.run)
    for _ in range(20):
        polled = await gateway.refused(call())
        assert (polled.code, polled.approval) == ("approval_required", waits.approval)
    assert await gateway.run(run.run) == state
    await gateway.approve(waits.approval.id, run.run)

    assert (await call()).ended == "finished"
    assert str(waits).startswith("a person has to decide about this call; repeat it after the decision, unchanged.")


async def test_an_approval_is_requested_only_while_a_call_is_left_to_use_it(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")
    for _ in range(9):
        await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=0, reason="x"))

    last = await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=3000, reason="x"))
    state = await gateway.run(run.run)

    assert (last.code, last.approval, state.ended) == ("out_of_budget", None, RunEnd.OUT_OF_BUDGET)
    assert state.approval is None


async def test_fifty_uses_of_one_approval_are_one_refund(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")

    def call() -> Any:
        return gateway.take(agent, "propose", run.run, run.seq, amount=3000, reason="broken")

    waits = await gateway.refused(call())
    assert waits.approval is not None
    await gateway.approve(waits.approval.id, run.run)
    outcomes = await asyncio.gather(*(call() for _ in range(50)), return_exceptions=True)

    codes = {getattr(each, "code", "done") for each in outcomes}
    assert codes <= {"done", "outcome_pending"}
    assert len(await gateway.refunds()) == 1


async def test_a_denied_call_can_be_requested_once_more(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")

    def call() -> Any:
        return gateway.take(agent, "propose", run.run, run.seq, amount=3000, reason="broken")

    codes = []
    for _ in range(2):
        waits = await gateway.refused(call())
        assert waits.approval is not None
        await gateway.deny(waits.approval.id, run.run)
        denied = await gateway.refused(call())
        codes += [waits.code, denied.code]

    assert codes == ["approval_required", "approval_denied"] * 2
    assert str(denied) == "a person has denied calls of this run 2 times; the run ends"
    assert (await gateway.run(run.run)).ended is RunEnd.DENIED
    assert await gateway.refunds() == []


async def test_a_freeze_between_two_calls_stops_the_second(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")

    await gateway.freeze("workflow/refund")
    refused = await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=5, reason="x"))
    started = await gateway.refused(gateway.start(agent, ticket="t-18"))

    assert (refused.code, started.code) == ("frozen", "frozen")
    assert await gateway.refunds() == []


async def test_runs_of_another_tenant_do_not_exist(gateway: World) -> None:
    agent, stranger = await gateway.tenant("acme"), await gateway.tenant("bolt")
    run = await gateway.start(agent, ticket="t-17")

    foreign = await gateway.refused(gateway.take(stranger, "propose", run.run, run.seq, amount=5, reason="x"))
    unknown = await gateway.refused(gateway.take(stranger, "propose", f"run_{'0' * 32}", 1, amount=5, reason="x"))
    no_id = await gateway.refused(gateway.take(stranger, "propose", "\ud800'; --", 1, amount=5, reason="x"))

    assert [each.code for each in (foreign, unknown, no_id)] == ["run_not_found"] * 3
    assert (await gateway.run(run.run)).used.calls == 2
    assert await gateway.refunds() == []


async def test_a_run_that_used_its_calls_ends(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")

    codes = [
        (await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=0, reason="x"))).code
        for _ in range(11)
    ]

    assert codes == ["invalid_input"] * 9 + ["out_of_budget", "run_ended"]
    assert (await gateway.run(run.run)).ended is RunEnd.OUT_OF_BUDGET
    again = await gateway.start(agent, ticket="t-17")
    assert (again.run, again.seq) == (run.run, 5)
    await gateway.take(agent, "propose", again.run, again.seq, amount=5, reason="x")
    assert len(await gateway.refunds()) == 1


async def test_an_unknown_ticket_starts_no_run(gateway: World) -> None:
    agent = await gateway.tenant()

    refused = await gateway.refused(gateway.start(agent, ticket="t-404"))

    assert (refused.code, refused.run) == ("row_missing", None)


async def test_a_metered_quota_counts_all_days_of_the_month(gateway: World) -> None:
    calls = bundle_of().workflows[0].limits.run
    metered = METERED.model_copy(update={"quota": calls.calls})
    unused, used = await gateway.tenant("acme", feature=metered), await gateway.tenant("bolt", feature=metered)
    earlier = BudgetReserved(
        tenant_id=used.tenant_id, day_id=day_id(used.tenant_id, now().replace(day=1)), run_id=f"run_{'0' * 32}",
        agent_id=used.agent_id, workflow="refund", attempt_seq=1, reserved=Amounts(calls=1),
    )  # fmt: skip
    await gateway.record(DAYS, earlier)

    refused = await gateway.refused(gateway.start(used, ticket="t-17"))

    assert refused.code == "actions_not_entitled"
    assert (await gateway.start(unused, ticket="t-17")).ended is None


async def test_newer_grants_hold_at_once(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")
    older = bundle_of()
    grants = (
        '@id("reads") @columns("*") permit(principal in Role::"support", action == Action::"read", resource);\n'
        '@id("small") @columns("*") permit(principal, action == Action::"create", resource is refunds) '
        "when { resource.amount <= 100 };"
    )

    await gateway.publish(bundle_of(grants=grants))
    refused = await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=500, reason="x"))
    await gateway.publish(older)
    await gateway.take(agent, "propose", run.run, run.seq, amount=500, reason="x")

    assert refused.code == "not_permitted"
    assert len(await gateway.refunds()) == 1


async def test_a_suspended_tenant_and_an_ended_login_do_nothing(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")

    await gateway.change_tenant(agent.tenant_id, is_open=False)
    closed = await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=5, reason="x"))
    await gateway.change_tenant(agent.tenant_id, status=AgentTenantStatus.SUSPENDED)
    stopped = await gateway.refused(gateway.start(agent, ticket="t-18"))
    await until(lambda: gateway.has_ended(run.run))

    assert (closed.code, stopped.code) == ("database_unavailable", "tenant_not_running")
    assert (await gateway.run(run.run)).ended is RunEnd.STOPPED


async def test_an_expired_key_and_another_role_are_refused(gateway: World) -> None:
    agent = await gateway.tenant()
    expired = await gateway.agent(agent.tenant_id, valid=timedelta(seconds=-1))
    other = await gateway.agent(agent.tenant_id, role="sales")

    refused = [await gateway.refused(gateway.start(each, ticket="t-17")) for each in (expired, other)]

    assert [each.code for each in refused] == ["agent_not_active", "workflow_not_found"]
