"""Moves: everybody who pins one plan version is taken to another, batch by batch."""

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from hashlib import sha256
from typing import assert_never

from paybill_contracts.billing import PlanRef, Subscription
from paybill_contracts.changes import ChangeKind, WantedChange
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.plan_migrations import MoveFinished, MovePaused, MoveProgressed, MoveResumed, MoveStarted

from paybill_billing.catalogue.domain.catalogue import Catalogue, published
from paybill_billing.subscriptions.domain import change_requests, changes
from paybill_billing.subscriptions.domain.changes import ChangeEvent

MoveEvent = MoveStarted | MoveProgressed | MovePaused | MoveResumed | MoveFinished


class Status(StrEnum):
    """Where a move stands."""

    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"


class UnknownMoveError(NotFoundError):
    code = "unknown_move"


class SameVersionError(DomainError):
    """There is nowhere to move to."""

    code = "same_version"


class NobodyToMoveError(ConflictError):
    code = "nobody_to_move"


class MoveRunsError(ConflictError):
    """Two moves away from one version would race for its subscribers."""

    code = "move_runs"


class MoveFinishedError(ConflictError):
    code = "move_finished"


class MoveOrderError(DomainError):
    """A fact came before the one that starts the move."""

    code = "move_order"


@dataclass(frozen=True, slots=True)
class Move:
    """A move of subscribers. after: the last subscription that was asked to change, in the order of ids."""

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
class Settled:
    """What became of a move's changes so far."""

    asked: int
    moved: int
    refused: int

    @property
    def open(self) -> int:
        """How many are under way."""
        return self.asked - self.moved - self.refused


def change_id(move_id: str, subscription_id: str) -> str:
    """The id of the one change that a move makes of a subscription."""
    return "chg_" + sha256(f"{move_id}/{subscription_id}".encode()).hexdigest()[:32]


def start(
    move: Move | None,
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
) -> list[MoveEvent]:
    """Begin. Both versions must have been published. Raises UnknownPlanError, SameVersionError, NobodyToMoveError."""
    if move is not None:
        return []
    published(catalogue, from_plan, from_version)
    to = published(catalogue, to_plan, to_version)
    if (from_plan, from_version) == (to_plan, to_version):
        raise SameVersionError(f"{to_plan}@{to_version} is where they are; name another version")
    if not total:
        raise NobodyToMoveError(f"nobody subscribes to {from_plan}@{from_version}")
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


def ask(move: Move, catalogue: Catalogue, subscription: Subscription, open_change: str | None) -> list[ChangeEvent]:
    """The change of one subscription, confirmed; one that a rule refuses is recorded with the reason.

    open_change: another change of it that is not over.
    """
    id_ = change_id(move.id, subscription.subscription_id)
    wish = partial(
        changes.request,
        None,
        subscription,
        change_id=id_,
        confirmed=True,
        reason=move.reason,
        move_id=move.id,
    )
    try:
        wanted = change_requests.moved(catalogue, subscription, move.to, at_period_end=move.at_period_end)
        return wish(wanted, open_change=open_change)
    except DomainError as error:
        wanted = WantedChange(
            kind=ChangeKind.PLAN, at_period_end=move.at_period_end, plan=move.to, price_index=0, quantity=None
        )
        events = wish(wanted, open_change=None)
        return [*events, *changes.refused(changes.evolve(None, events[0]), error.code, str(error)[:500])]


def progress(move: Move, after: str, batch: int, settled: Settled) -> list[MoveEvent]:
    """A batch of so many, up to `after`, is asked; `settled`: what became of all that were asked before."""
    if move.status is not Status.RUNNING or after <= move.after:
        return []
    return [
        MoveProgressed(
            move_id=move.id,
            after=after,
            asked=settled.asked + batch,
            moved=settled.moved,
            refused=settled.refused,
        )
    ]


def finish(move: Move, settled: Settled, left: int) -> list[MoveEvent]:
    """Nobody is left to ask, and nothing is under way."""
    if move.status is not Status.RUNNING or settled.open:
        return []
    return [MoveFinished(move_id=move.id, asked=settled.asked, moved=settled.moved, refused=settled.refused, left=left)]


def pause(move: Move, reason: str) -> list[MoveEvent]:
    """Ask nobody more until it is resumed. Raises MoveFinishedError."""
    match move.status:
        case Status.RUNNING:
            return [MovePaused(move_id=move.id, reason=reason)]
        case Status.PAUSED:
            return []
        case Status.FINISHED:
            raise MoveFinishedError(f"{move.id} is finished; there is nothing to pause")
        case _:
            assert_never(move.status)


def resume(move: Move) -> list[MoveEvent]:
    """Go on. Raises MoveFinishedError."""
    match move.status:
        case Status.PAUSED:
            return [MoveResumed(move_id=move.id)]
        case Status.RUNNING:
            return []
        case Status.FINISHED:
            raise MoveFinishedError(f"{move.id} is finished; start another for who is left")
        case _:
            assert_never(move.status)


def existing(move: Move | None, move_id: str) -> Move:
    """The move. Raises UnknownMoveError."""
    if move is None:
        raise UnknownMoveError(f"there is no move {move_id}")
    return move


def evolve(move: Move | None, event: MoveEvent) -> Move:
    """The move after `event`; only `MoveStarted` may come first."""
    if isinstance(event, MoveStarted):
        return Move(
            id=event.move_id,
            from_plan=event.from_plan,
            from_version=event.from_version,
            to=event.to,
            at_period_end=event.at_period_end,
            total=event.total,
            reason=event.reason,
        )
    if move is None:
        raise MoveOrderError(f"{event.TYPE} came before the start of {event.move_id}")
    match event:
        case MoveProgressed():
            return replace(move, after=event.after, asked=event.asked, moved=event.moved, refused=event.refused)
        case MovePaused():
            return replace(move, status=Status.PAUSED)
        case MoveResumed():
            return replace(move, status=Status.RUNNING)
        case MoveFinished():
            return replace(
                move,
                status=Status.FINISHED,
                asked=event.asked,
                moved=event.moved,
                refused=event.refused,
                left=event.left,
            )
        case _:
            assert_never(event)
