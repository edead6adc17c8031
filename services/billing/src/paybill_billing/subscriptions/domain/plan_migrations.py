"""Plan migrations: all subscriptions of one plan version change to another, in batches."""

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from hashlib import sha256
from typing import assert_never

from paybill_contracts.billing import Subscription
from paybill_contracts.catalogue import PlanRef
from paybill_contracts.changes import ChangeKind, WantedChange
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.plan_migrations import MoveFinished, MovePaused, MoveProgressed, MoveResumed, MoveStarted

from paybill_billing.catalogue.domain.catalogue import Catalogue, published
from paybill_billing.subscriptions.domain import change_requests, changes
from paybill_billing.subscriptions.domain.changes import ChangeEvent

PlanMigrationEvent = MoveStarted | MoveProgressed | MovePaused | MoveResumed | MoveFinished


class Status(StrEnum):
    """The status of a plan migration."""

    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"


class UnknownPlanMigrationError(NotFoundError):
    code = "unknown_move"


class SameVersionError(DomainError):
    """Raised when the old and the new version are the same."""

    code = "same_version"


class NoSubscribersError(ConflictError):
    code = "nobody_to_move"


class PlanMigrationRunsError(ConflictError):
    """Raised while another migration from the version runs: two would race for its subscribers."""

    code = "move_runs"


class PlanMigrationFinishedError(ConflictError):
    code = "move_finished"


class PlanMigrationOrderError(DomainError):
    """Raised when an event precedes the start of its plan migration."""

    code = "move_order"


@dataclass(frozen=True, slots=True)
class PlanMigration:
    """A plan migration. after: the last subscription with a requested change, in the order of ids."""

    id: str
    from_plan: str
    from_version: int
    to: PlanRef
    at_period_end: bool
    total: int
    reason: str
    status: Status = Status.RUNNING
    after: str = ""
    asked: int = 0
    moved: int = 0
    refused: int = 0
    left: int | None = None


@dataclass(frozen=True, slots=True)
class ChangeCounts:
    """The counts of a migration's changes."""

    requested: int
    applied: int
    refused: int

    @property
    def open(self) -> int:
        """The number of open changes."""
        return self.requested - self.applied - self.refused


def change_id(move_id: str, subscription_id: str) -> str:
    """Returns the id of the migration's change of a subscription."""
    return "chg_" + sha256(f"{move_id}/{subscription_id}".encode()).hexdigest()[:32]


def start(
    migration: PlanMigration | None,
    catalogue: Catalogue,
    *,
    move_id: str,
    from_plan: str,
    from_version: int,
    to_plan: str,
    to_version: int,
    at_period_end: bool,
    total: int,
    reason: str,
) -> list[PlanMigrationEvent]:
    """Starts a migration between two published versions.

    Raises UnknownPlanError, SameVersionError, NoSubscribersError.
    """
    if migration is not None:
        return []
    published(catalogue, from_plan, from_version)
    to = published(catalogue, to_plan, to_version)
    if (from_plan, from_version) == (to_plan, to_version):
        raise SameVersionError(f"the subscribers already have {to_plan}@{to_version}; name another version")
    if not total:
        raise NoSubscribersError(f"{from_plan}@{from_version} has no subscribers")
    return [
        MoveStarted(
            move_id=move_id,
            from_plan=from_plan,
            from_version=from_version,
            to=PlanRef(plan=to_plan, version=to_version, catalogue_hash=to.catalogue_hash),
            at_period_end=at_period_end,
            total=total,
            reason=reason,
        )
    ]


def request_change(
    migration: PlanMigration, catalogue: Catalogue, subscription: Subscription, open_change: str | None
) -> list[ChangeEvent]:
    """Requests the confirmed change of one subscription; a refusal is recorded with its reason.

    open_change: another open change of the subscription.
    """
    id_ = change_id(migration.id, subscription.subscription_id)
    request = partial(
        changes.request,
        None,
        subscription,
        change_id=id_,
        confirmed=True,
        reason=migration.reason,
        move_id=migration.id,
    )
    try:
        desired = change_requests.resolve_migration(
            catalogue, subscription, migration.to, at_period_end=migration.at_period_end
        )
        return request(desired, open_change=open_change)
    except DomainError as error:
        desired = WantedChange(
            kind=ChangeKind.PLAN, at_period_end=migration.at_period_end, plan=migration.to, price_index=0, quantity=None
        )
        events = request(desired, open_change=None)
        return [*events, *changes.refused(changes.evolve(None, events[0]), error.code, str(error)[:500])]


def progress(migration: PlanMigration, after: str, batch: int, counts: ChangeCounts) -> list[PlanMigrationEvent]:
    """Records the next batch of subscriptions, up to `after`. counts: the changes of the batches before."""
    if migration.status is not Status.RUNNING or after <= migration.after:
        return []
    return [
        MoveProgressed(
            move_id=migration.id,
            after=after,
            asked=counts.requested + batch,
            moved=counts.applied,
            refused=counts.refused,
        )
    ]


def finish(migration: PlanMigration, counts: ChangeCounts, left: int) -> list[PlanMigrationEvent]:
    """Finishes the migration when no change is open. left: the subscriptions that still pin the old version."""
    if migration.status is not Status.RUNNING or counts.open:
        return []
    return [
        MoveFinished(
            move_id=migration.id, asked=counts.requested, moved=counts.applied, refused=counts.refused, left=left
        )
    ]


def pause(migration: PlanMigration, reason: str) -> list[PlanMigrationEvent]:
    """Stops further batches until the migration is resumed. Raises PlanMigrationFinishedError."""
    match migration.status:
        case Status.RUNNING:
            return [MovePaused(move_id=migration.id, reason=reason)]
        case Status.PAUSED:
            return []
        case Status.FINISHED:
            raise PlanMigrationFinishedError(f"{migration.id} is already finished; it cannot be paused")
        case _:
            assert_never(migration.status)


def resume(migration: PlanMigration) -> list[PlanMigrationEvent]:
    """Continues with the next batch. Raises PlanMigrationFinishedError."""
    match migration.status:
        case Status.PAUSED:
            return [MoveResumed(move_id=migration.id)]
        case Status.RUNNING:
            return []
        case Status.FINISHED:
            raise PlanMigrationFinishedError(
                f"{migration.id} is already finished; start another one for the remaining subscribers"
            )
        case _:
            assert_never(migration.status)


def existing(migration: PlanMigration | None, move_id: str) -> PlanMigration:
    """Returns the plan migration. Raises UnknownPlanMigrationError."""
    if migration is None:
        raise UnknownPlanMigrationError(f"there is no plan migration {move_id}")
    return migration


def evolve(migration: PlanMigration | None, event: PlanMigrationEvent) -> PlanMigration:
    """Returns the plan migration after `event`; only `MoveStarted` may come first."""
    if isinstance(event, MoveStarted):
        return PlanMigration(
            id=event.move_id,
            from_plan=event.from_plan,
            from_version=event.from_version,
            to=event.to,
            at_period_end=event.at_period_end,
            total=event.total,
            reason=event.reason,
        )
    if migration is None:
        raise PlanMigrationOrderError(f"{event.TYPE} came before the start of {event.move_id}")
    match event:
        case MoveProgressed():
            return replace(migration, after=event.after, asked=event.asked, moved=event.moved, refused=event.refused)
        case MovePaused():
            return replace(migration, status=Status.PAUSED)
        case MoveResumed():
            return replace(migration, status=Status.RUNNING)
        case MoveFinished():
            return replace(
                migration,
                status=Status.FINISHED,
                asked=event.asked,
                moved=event.moved,
                refused=event.refused,
                left=event.left,
            )
        case _:
            assert_never(event)
