"""Reconciliation runs, which compare a provider's subscriptions with ours, and the drifts that they find."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, assert_never

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
from pydantic import Field

RunEvent = ReconciliationStarted | ReconciliationProgressed | ReconciliationFinished | ReconciliationStopped

LONGEST_TEXT = 200


class UnknownRunError(NotFoundError):
    code = "unknown_reconciliation"


class RunEndedError(ConflictError):
    """Raised when a run is stopped that has ended."""

    code = "reconciliation_ended"


class RunningAlreadyError(ConflictError):
    """Raised when a second run of a provider is started: both would share its rate limit and find the same."""

    code = "reconciliation_runs"


class RunOrderError(DomainError):
    """Raised for an event that precedes the start of its run."""

    code = "reconciliation_order"


class Status(StrEnum):
    """Status of a run."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Run:
    """A comparison of all subscriptions of a provider with ours.

    after: the next page of the provider's list. listed: True after its last page. mine: the last of our subscriptions
    that was fetched because the list does not contain it.
    """

    id: str
    provider: str
    repair: bool
    started_at: datetime
    status: Status = Status.RUNNING
    after: str | None = None
    listed: bool = False
    mine: str | None = None
    compared: Annotated[int, Field(alias="looked")] = 0
    drifted: int = 0


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference that was found. Its repair is recorded as events of the subscription."""

    id: str
    run_id: str | None
    tenant_id: str | None
    found: DriftFound


@dataclass(frozen=True, slots=True)
class Page:
    """Result of comparing a page. after, listed, mine: those of `Run` after it. done: it was the last."""

    after: str | None
    listed: bool
    mine: str | None
    compared: int
    drifts: Sequence[DriftFound]
    done: bool = False


def start(run_id: str, provider: str, running: str | None, *, repair: bool, now: datetime) -> list[RunEvent]:
    """Starts a run. running: the provider's run that has not ended. Raises RunningAlreadyError."""
    if running is not None:
        raise RunningAlreadyError(f"{running} compares {provider} already; wait for its end, or stop it")
    return [ReconciliationStarted(run_id=run_id, provider=provider, repair=repair, started_at=now)]


def progress(run: Run, page: Page) -> list[RunEvent]:
    """Records the result of a page; nothing when the run was stopped meanwhile."""
    if run.status is not Status.RUNNING:
        return []
    compared, drifted = run.compared + page.compared, run.drifted + len(page.drifts)
    if page.done:
        return [ReconciliationFinished(run_id=run.id, looked=compared, drifted=drifted)]
    return [
        ReconciliationProgressed(
            run_id=run.id, after=page.after, listed=page.listed, mine=page.mine, looked=compared, drifted=drifted
        )
    ]


def stop(run: Run) -> list[RunEvent]:
    """Stops a run. Raises RunEndedError."""
    if run.status is not Status.RUNNING:
        raise RunEndedError(f"{run.id} is already {run.status}")
    return [ReconciliationStopped(run_id=run.id)]


def drift_kind(before: Subscription | None, after: Subscription | None) -> DriftKind | None:
    """Returns the kind of drift between our subscription and its state after a sync; None without a difference."""
    if after is None or after == before:
        return None
    return DriftKind.UNKNOWN_HERE if before is None else DriftKind.DIFFERENT


def differences(before: Subscription | None, after: Subscription) -> tuple[Difference, ...]:
    """Returns the fields that differ."""
    if before is None:
        return ()
    here, there = before.model_dump(mode="json"), after.model_dump(mode="json")
    return tuple(
        Difference(field=name, here=_text(here[name]), there=_text(there[name]))
        for name in sorted(there)
        if here[name] != there[name]
    )


def evolve(run: Run | None, event: RunEvent) -> Run:
    """Returns the run after `event`; only `ReconciliationStarted` may come first."""
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
                compared=event.looked,
                drifted=event.drifted,
            )
        case ReconciliationFinished():
            return replace(run, status=Status.FINISHED, compared=event.looked, drifted=event.drifted)
        case ReconciliationStopped():
            return replace(run, status=Status.STOPPED)
        case _:
            assert_never(event)


def evolve_drift(_drift: Drift | None, event: DriftFound) -> Drift:
    """Returns the drift that the event describes."""
    match event:
        case DriftFound():
            return Drift(id=event.drift_id, run_id=event.run_id, tenant_id=event.tenant_id, found=event)
        case _:
            assert_never(event)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:LONGEST_TEXT]
