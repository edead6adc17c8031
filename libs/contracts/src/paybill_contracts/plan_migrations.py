"""Events about plan migrations: all subscriptions of one plan version change to another."""

from paybill_contracts.catalogue import PlanRef
from paybill_contracts.changes import MigrationId
from paybill_contracts.event import Event
from paybill_contracts.values import Count, Key, SubscriptionId, Text


class PlanMigrationEvent(Event):
    """Common fields of a plan migration's events."""

    move_id: MigrationId


class MoveStarted(PlanMigrationEvent, type="billing.move_started", version=1, aggregate="move", key="move_id"):
    """All subscriptions that pin `from_plan` in `from_version` are to pin `to`, each by its own change.

    at_period_end: each at the end of its paid period instead of now. total: number of these subscriptions.
    """

    from_plan: Key
    from_version: Count
    to: PlanRef
    at_period_end: bool
    total: Count
    reason: Text


class MoveProgressed(PlanMigrationEvent, type="billing.move_progressed", version=1, aggregate="move", key="move_id"):
    """Changes were requested for the subscriptions up to `after`, in the order of their ids.

    moved, refused: number of changes so far that were applied, and that were refused.
    """

    after: SubscriptionId
    asked: Count
    moved: Count
    refused: Count


class MovePaused(PlanMigrationEvent, type="billing.move_paused", version=1, aggregate="move", key="move_id"):
    """No further changes are requested until it is resumed; requested changes continue."""

    reason: Text


class MoveResumed(PlanMigrationEvent, type="billing.move_resumed", version=1, aggregate="move", key="move_id"):
    """The migration continues after the last requested change."""


class MoveFinished(PlanMigrationEvent, type="billing.move_finished", version=1, aggregate="move", key="move_id"):
    """All changes were requested, and each was applied or refused.

    left: number of subscriptions that still pin the old version: refused changes and new subscriptions.
    """

    asked: Count
    moved: Count
    refused: Count
    left: Count
