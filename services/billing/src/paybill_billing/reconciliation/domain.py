"""Reconciliation: whether a provider and we say the same, run by run, page by page. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, assert_never

from paybill_contracts.billing import Subscription
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.reconciliation import (
    Difference,
    DriftFound,
    DriftKind,
    ReconciliationFinished,
    ReconciliationProgressed,
    ReconciliationStarted,
    ReconciliationStopped,
)

RunEvent = ReconciliationStarted | ReconciliationProgressed | ReconciliationFinished | ReconciliationStopped

LONGEST_TEXT = 200


class UnknownRunError(NotFoundError):
    code = "unknown_reconciliation"


class RunEndedError(ConflictError):
    """There is nothing left to stop."""

    code = "reconciliation_ended"


class RunningAlreadyError(ConflictError):
    """One at a time for each provider: two would share its pace and find the same."""

    code = "reconciliation_runs"


class RunOrderError(DomainError):
    """A fact came before the one that starts the run."""

    code = "reconciliation_order"


class Status(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Run:
    """A comparison of all subscriptions of a provider.

    after: where the provider's list goes on. listed: it is through. mine: how far our own subscriptions were looked up
    there, for what the list does not show.
    """

    id: str
    provider: str
    repair: bool
    started_at: datetime
    status: Status = Status.RUNNING
    after: str | None = None
    listed: bool = False
    mine: str | None = None
    looked: int = 0
    drifted: int = 0


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference that was found; what became of it follows as facts of the subscription."""

    id: str
    run_id: str | None
    tenant_id: str | None
    found: DriftFound


@dataclass(frozen=True, slots=True)
class Page:
    """What comparing a page came to. after, listed, mine: as `Run` has them afterwards; done: nothing is left."""

    after: str | None
    listed: bool
    mine: str | None
    looked: int
    drifts: Sequence[DriftFound]
    done: bool = False


def start(run_id: str, provider: str, running: str | None, *, repair: bool, now: datetime) -> list[RunEvent]:
    """Compare everything. running: the run of this provider that is not over. Raises RunningAlreadyError."""
    if running is not None:
        raise RunningAlreadyError(f"{running} compares {provider} already; wait for it, or stop it")
    return [ReconciliationStarted(run_id=run_id, provider=provider, repair=repair, started_at=now)]


def progress(run: Run, page: Page) -> list[RunEvent]:
    """A page further; nothing when somebody stopped it meanwhile."""
    if run.status is not Status.RUNNING:
        return []
    looked, drifted = run.looked + page.looked, run.drifted + len(page.drifts)
    if page.done:
        return [ReconciliationFinished(run_id=run.id, looked=looked, drifted=drifted)]
    return [
        ReconciliationProgressed(
            run_id=run.id, after=page.after, listed=page.listed, mine=page.mine, looked=looked, drifted=drifted
        )
    ]


def stop(run: Run) -> list[RunEvent]:
    """End it where it is. Raises RunEndedError."""
    if run.status is not Status.RUNNING:
        raise RunEndedError(f"{run.id} is {run.status} already")
    return [ReconciliationStopped(run_id=run.id)]


def judge(before: Subscription | None, after: Subscription | None) -> DriftKind | None:
    """How what we hold differs from what the provider's object would make of it; None when it does not."""
    if after is None or after == before:
        return None
    return DriftKind.UNKNOWN_HERE if before is None else DriftKind.DIFFERENT


def differences(before: Subscription | None, after: Subscription) -> tuple[Difference, ...]:
    """Field by field."""
    if before is None:
        return ()
    here, there = before.model_dump(mode="json"), after.model_dump(mode="json")
    return tuple(
        Difference(field=name, here=_text(here[name]), there=_text(there[name]))
        for name in sorted(there)
        if here[name] != there[name]
    )


def evolve(run: Run | None, event: RunEvent) -> Run:
    """The run after `event`; only `ReconciliationStarted` may come first."""
    if isinstance(event, ReconciliationStarted):
        return Run(id=event.run_id, provider=event.provider, repair=event.repair, started_at=event.started_at)
    if run is None:
        raise RunOrderError(f"{event.TYPE} came before {event.run_id} was started")
    match event:
        case ReconciliationProgressed():
            return replace(
                run,
                after=event.after,
                listed=event.listed,
                mine=event.mine,
                looked=event.looked,
                drifted=event.drifted,
            )
        case ReconciliationFinished():
            return replace(run, status=Status.FINISHED, looked=event.looked, drifted=event.drifted)
        case ReconciliationStopped():
            return replace(run, status=Status.STOPPED)
        case _:
            assert_never(event)


def found(_drift: Drift | None, event: DriftFound) -> Drift:
    """The fact is the whole of it."""
    match event:
        case DriftFound():
            return Drift(id=event.drift_id, run_id=event.run_id, tenant_id=event.tenant_id, found=event)
        case _:
            assert_never(event)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:LONGEST_TEXT]
