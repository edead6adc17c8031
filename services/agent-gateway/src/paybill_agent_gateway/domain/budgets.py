"""Budgets of a tenant's day (UTC): a run reserves all that it may use when it starts, and settles it at its end."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import assert_never

from paybill_contracts.agent_bundles import Amounts, Workflow
from paybill_contracts.agent_runs import BudgetReserved, BudgetSettled, RunEnded
from paybill_contracts.values import Key, TenantId

from paybill_agent_gateway.domain.amounts import NOTHING, exceeded_of_day, plus
from paybill_agent_gateway.domain.refusals import BudgetExceededError

DayEvent = BudgetReserved | BudgetSettled


@dataclass(frozen=True, slots=True)
class Reservation:
    """Part of the day that a run has reserved and not settled yet."""

    workflow: Key
    agent_id: str | None
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class Day:
    """A tenant's day. used: settled, by workflow and by `workflow/agent`; actions: done in runs that have ended.

    open: reservations of runs that have not ended, by `run/attempt`.
    """

    id: str
    tenant_id: TenantId
    used: dict[str, Amounts] = field(default_factory=dict)
    open: dict[str, Reservation] = field(default_factory=dict)
    actions: int = 0


def day_id(tenant_id: str, at: datetime) -> str:
    """Returns the id of the day of a tenant to which a time belongs."""
    return f"{tenant_id}/{at:%Y-%m-%d}"


def earlier_days(tenant_id: str, at: datetime) -> tuple[str, ...]:
    """Returns the ids of the earlier days of the month (UTC) of a tenant to which a time belongs."""
    return tuple(day_id(tenant_id, at.replace(day=number)) for number in range(1, at.day))


def actions_taken(days: Iterable[Day | None]) -> int:
    """Returns the actions of days: those done, and all that runs which have not ended may still take."""
    known = [each for each in days if each is not None]
    return sum(each.actions + sum(open_.amounts.calls for open_ in each.open.values()) for each in known)


def reserve(
    day: Day | None,
    workflow: Workflow,
    tenant_id: str,
    agent_id: str | None,
    run_id: str,
    attempt_seq: int,
    now: datetime,
) -> BudgetReserved:
    """Reserves the limits of one run of a workflow. Raises BudgetExceededError."""
    whole = workflow.limits.run
    limits = [("tenant", workflow.limits.tenant_day, workflow.name)]
    if agent_id is not None:
        limits.append(("agent", workflow.limits.agent_day, f"{workflow.name}/{agent_id}"))
    for whose, limit, name in limits:
        if limit is None:
            continue
        found = exceeded_of_day(plus(_taken(day, name), whole), limit)
        if found is not None:
            raise BudgetExceededError(
                f"the {whose}'s {found} of today for {workflow.name} do not suffice for one more run; "
                "they are free again when runs end, and tomorrow (UTC)"
            )
    return BudgetReserved(
        tenant_id=tenant_id,
        day_id=day_id(tenant_id, now),
        run_id=run_id,
        agent_id=agent_id,
        workflow=workflow.name,
        attempt_seq=attempt_seq,
        reserved=whole,
    )


def on_run_ended(day: Day | None, fact: RunEnded) -> list[DayEvent]:
    """Settles the reservation of a run that has ended."""
    if day is None:
        return []
    attempts = [int(name.partition("/")[2]) for name in day.open if name.startswith(f"{fact.run_id}/")]
    if not attempts:
        return []
    attempt = min(attempts)  # of two, the earlier one has ended
    return [
        BudgetSettled(
            tenant_id=day.tenant_id,
            day_id=day.id,
            run_id=fact.run_id,
            agent_id=day.open[f"{fact.run_id}/{attempt}"].agent_id,
            workflow=fact.workflow,
            attempt_seq=attempt,
            used=fact.used,
            actions=fact.actions,
        )
    ]


def evolve(day: Day | None, event: DayEvent) -> Day:
    """Returns the day after `event`."""
    known = day or Day(event.day_id, event.tenant_id)
    name = f"{event.run_id}/{event.attempt_seq}"
    match event:
        case BudgetReserved():
            found = Reservation(event.workflow, event.agent_id, event.reserved)
            return replace(known, open=known.open | {name: found})
        case BudgetSettled():
            used = dict(known.used)
            for key in _names(event.workflow, event.agent_id):
                used[key] = plus(used.get(key, NOTHING), event.used)
            return replace(
                known,
                used=used,
                open={key: each for key, each in known.open.items() if key != name},
                actions=known.actions + event.actions,
            )
        case _:
            assert_never(event)


def _names(workflow: str, agent_id: str | None) -> Iterable[str]:
    return (workflow,) if agent_id is None else (workflow, f"{workflow}/{agent_id}")


def _taken(day: Day | None, name: str) -> Amounts:
    if day is None:
        return NOTHING
    total = day.used.get(name, NOTHING)
    for each in day.open.values():
        if name in _names(each.workflow, each.agent_id):
            total = plus(total, each.amounts)
    return total
