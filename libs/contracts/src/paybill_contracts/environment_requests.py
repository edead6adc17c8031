"""Facts of requested changes of an environment: a move, and a quoted change of the subscription."""

from paybill_contracts.changes import ChangeId
from paybill_contracts.environment_plans import EnvironmentFact
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset
from paybill_contracts.values import Digest, Key, Text, Timestamp


class MoveRequested(
    EnvironmentFact, type="provisioner.move_requested", version=1, aggregate="environment", key="environment_id"
):
    """A person requested another placement for the tenant; its tier stays.

    It ends when the tenant is entitled to another tier or placement, or when its plan is rejected.
    """

    from_preset: Preset
    to_preset: Preset
    requester: Text
    requested_at: Timestamp


class ProrationNoted(
    EnvironmentFact, type="provisioner.proration_noted", version=1, aggregate="environment", key="environment_id"
):
    """Billing quoted a change of the subscription to this tier and placement, and `due_now` as its proration.

    entitlements_hash: of the entitlements before it; None when there were none. due_now: None when the change will not
    be made.
    """

    change_id: ChangeId
    due_now: Money | None
    tier: Key
    preset: Preset
    entitlements_hash: Digest | None = None
