"""Facts about moves: all who subscribe to one plan version are taken to another."""

from paybill_contracts.catalogue import PlanRef
from paybill_contracts.changes import MigrationId
from paybill_contracts.event import Event
from paybill_contracts.values import Count, Key, SubscriptionId, Text


class PlanMigrationEvent(Event):
    """What all facts of a move carry."""

    move_id: MigrationId


class MoveStarted(PlanMigrationEvent, type="billing.move_started", version=1, aggregate="move", key="move_id"):
    """Everybody who pins `from_plan` in `from_version` is to pin `to` instead, each by a change of its own.

    at_period_end: each when what it paid for is over, and not now. total: how many they were.
    """

    from_plan: Key
    from_version: Count
    to: PlanRef
    at_period_end: bool
    total: Count
    reason: Text


class MoveProgressed(PlanMigrationEvent, type="billing.move_progressed", version=1, aggregate="move", key="move_id"):
    """The subscriptions up to `after`, in the order of their ids, have been asked to change.

    moved, refused: how many of all changes so far were made, and were not.
    """

    after: SubscriptionId
    asked: Count
    moved: Count
    refused: Count


class MovePaused(PlanMigrationEvent, type="billing.move_paused", version=1, aggregate="move", key="move_id"):
    """Nobody more is asked to change until it is resumed; changes that are under way are made."""

    reason: Text


class MoveResumed(PlanMigrationEvent, type="billing.move_resumed", version=1, aggregate="move", key="move_id"):
    """It goes on behind the last subscription that was asked."""


class MoveFinished(PlanMigrationEvent, type="billing.move_finished", version=1, aggregate="move", key="move_id"):
    """Everybody was asked, and every change was made or refused.

    left: how many pin the old version still: those that were refused, and who came meanwhile.
    """

    asked: Count
    moved: Count
    refused: Count
    left: Count
