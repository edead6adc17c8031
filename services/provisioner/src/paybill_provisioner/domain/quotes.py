"""Prorations of changed subscriptions, as billing quotes them: the plan that follows from a change shows its own."""

from paybill_contracts.changes import ChangeDiscarded, ChangeExpired, ChangeQuoted, ChangeRefused
from paybill_contracts.environment_requests import ProrationNoted
from paybill_contracts.placement import Preset

from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment


def on_change_quoted(environment: Environment | None, fact: ChangeQuoted) -> list[EnvironmentEvent]:
    """Notes the proration of a change that gives another tier, placement or features; other changes plan nothing."""
    is_equal = (fact.tier_before, fact.placement_before) == (fact.tier_after, fact.placement_after)
    if environment is None or (is_equal and not fact.features):
        return []
    return [
        ProrationNoted(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            change_id=fact.change_id,
            due_now=fact.proration.due_now,
            tier=fact.tier_after,
            preset=Preset(fact.placement_after),
            entitlements_hash=environment.desired.entitlements_hash if environment.desired else None,
        )
    ]


def on_change_ended(
    environment: Environment | None, fact: ChangeDiscarded | ChangeExpired | ChangeRefused
) -> list[EnvironmentEvent]:
    """Forgets the proration of a change that will not be made."""
    quoted = environment.quoted if environment else None
    if environment is None or quoted is None or quoted.change_id != fact.change_id:
        return []
    return [
        ProrationNoted(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            change_id=quoted.change_id,
            due_now=None,
            tier=quoted.size.tier,
            preset=quoted.size.preset,
            entitlements_hash=quoted.entitlements_hash,
        )
    ]
