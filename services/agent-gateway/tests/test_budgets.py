"""Budgets of a day: whatever order runs start and end in, no limit is exceeded, and what is not used is free again."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paybill_agent_gateway.domain import budgets
from paybill_agent_gateway.domain.amounts import NOTHING, exceeded, exceeded_of_day, minus, plus
from paybill_agent_gateway.domain.budgets import Day
from paybill_agent_gateway.domain.refusals import BudgetExceededError
from paybill_contracts.agent_bundles import Amounts, Workflow, WorkflowLimits
from paybill_contracts.agent_runs import RunEnd, RunEnded

TENANT = f"ten_{'a' * 32}"
AGENTS = [f"agt_{number:032x}" for number in range(3)]
NOW = datetime(2026, 11, 30, tzinfo=UTC)
OF_RUN = Amounts(calls=4, rows=6, sums={"refunds.amount": 100})
OF_AGENT = Amounts(calls=10, rows=100, sums={"refunds.amount": 250})
OF_TENANT = Amounts(calls=20, rows=100, sums={"refunds.amount": 1000})
WORKFLOW = Workflow(
    name="refund",
    role="support",
    description="",
    inputs=(),
    once=(),
    limits=WorkflowLimits(run=OF_RUN, minutes=5, agent_day=OF_AGENT, tenant_day=OF_TENANT),
    steps=(),
)


def run_id(number: int) -> str:
    return f"run_{number:032x}"


def ended(number: int, agent: str, used: Amounts) -> RunEnded:
    return RunEnded(
        tenant_id=TENANT,
        run_id=run_id(number),
        bundle_hash="0" * 64,
        agent_id=agent,
        workflow="refund",
        reason=RunEnd.FINISHED,
        actions=used.calls,
        used=used,
        started_at=NOW,
        ended_at=NOW,
    )


USED = st.builds(
    lambda calls, rows, amount: Amounts(calls=calls, rows=rows, sums={"refunds.amount": amount}),
    st.integers(0, 4),
    st.integers(0, 6),
    st.integers(0, 100),
)
STEPS = st.lists(st.tuples(st.sampled_from(AGENTS), st.booleans(), USED), max_size=60)


@given(STEPS)
def test_no_order_of_starts_and_ends_exceeds_a_limit(steps: list[tuple[str, bool, Amounts]]) -> None:
    day: Day | None = None
    running: list[tuple[int, str]] = []
    used: dict[str, Amounts] = dict.fromkeys(AGENTS, NOTHING)
    for number, (agent, ends, amounts) in enumerate(steps):
        if ends and running:
            of, whose = running.pop(0)
            used[whose] = plus(used[whose], amounts)
            for event in budgets.on_run_ended(day, ended(of, whose, amounts)):
                day = budgets.evolve(day, event)
        else:
            try:
                reserved = budgets.reserve(day, WORKFLOW, TENANT, agent, run_id(number), 1, NOW)
            except BudgetExceededError:
                continue
            day = budgets.evolve(day, reserved)
            running.append((number, agent))
        for each in AGENTS:
            assert exceeded(used[each], OF_AGENT) is None
        assert exceeded(plus(plus(used[AGENTS[0]], used[AGENTS[1]]), used[AGENTS[2]]), OF_TENANT) is None
    assert day is None or len(day.open) == len(running)


def test_a_repeated_end_settles_nothing() -> None:
    day = budgets.evolve(None, budgets.reserve(None, WORKFLOW, TENANT, AGENTS[0], run_id(1), 1, NOW))
    (settled,) = budgets.on_run_ended(day, ended(1, AGENTS[0], NOTHING))
    day = budgets.evolve(day, settled)

    assert budgets.on_run_ended(day, ended(1, AGENTS[0], NOTHING)) == []
    assert (day.open, day.actions) == ({}, 0)


def test_of_two_attempts_the_earlier_one_is_settled_first() -> None:
    day = None
    for attempt in (1, 10):
        day = budgets.evolve(day, budgets.reserve(day, WORKFLOW, TENANT, AGENTS[0], run_id(1), attempt, NOW))

    (settled,) = budgets.on_run_ended(day, ended(1, AGENTS[0], NOTHING))

    assert settled.attempt_seq == 1


def test_an_open_run_counts_with_all_of_its_calls() -> None:
    day = budgets.evolve(None, budgets.reserve(None, WORKFLOW, TENANT, AGENTS[0], run_id(1), 1, NOW))

    assert budgets.actions_taken([day]) == OF_RUN.calls
    (settled,) = budgets.on_run_ended(day, ended(1, AGENTS[0], Amounts(calls=2)))
    assert budgets.actions_taken([None, budgets.evolve(day, settled)]) == 2


def test_the_earlier_days_of_a_month_are_those_since_its_first() -> None:
    first, third = NOW.replace(month=3, day=1), NOW.replace(month=3, day=3)

    assert budgets.earlier_days(TENANT, first) == ()
    assert [each.partition("/")[2][5:] for each in budgets.earlier_days(TENANT, third)] == ["03-01", "03-02"]


def test_a_refusal_names_the_budget_and_the_next_step() -> None:
    day = None
    for number in range(2):
        day = budgets.evolve(day, budgets.reserve(day, WORKFLOW, TENANT, AGENTS[0], run_id(number), 1, NOW))

    with pytest.raises(BudgetExceededError, match="the agent's calls of today for refund"):
        budgets.reserve(day, WORKFLOW, TENANT, AGENTS[0], run_id(3), 1, NOW)


def test_zero_is_no_limit_of_a_day() -> None:
    assert exceeded_of_day(Amounts(calls=5, rows=5), Amounts()) is None
    assert exceeded_of_day(Amounts(sums={"a.b": 1}), Amounts(sums={"a.b": 0})) == "a.b"


def test_amounts_never_become_negative() -> None:
    assert minus(Amounts(calls=1, sums={"a.b": 1}), Amounts(calls=2, sums={"a.b": 3})) == Amounts(sums={"a.b": 0})
