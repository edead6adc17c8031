"""Entitlements: what a tenant may use, computed from the plan version that its subscription pins."""

from dataclasses import dataclass
from typing import assert_never

from paybill_contracts.billing import EntitlementsSet, PlanRef, Subscription
from paybill_contracts.catalogue import Feature, PlanVersion
from paybill_contracts.errors import NotFoundError
from paybill_contracts.event import digest
from paybill_contracts.placement import Preset

from paybill_billing.domain.subscriptions import GIVES_ACCESS


class NothingEntitledError(NotFoundError):
    """The tenant has never had a subscription that gave access."""

    code = "nothing_entitled"


@dataclass(frozen=True, slots=True)
class Entitlements:
    """The effective set of a tenant, from one subscription."""

    id: str
    subscription_id: str
    plan: PlanRef
    tier: str
    placement: Preset
    features: tuple[Feature, ...]
    allows_access: bool
    entitlements_hash: str


def settle(held: Entitlements | None, subscription: Subscription, plan: PlanVersion) -> list[EntitlementsSet]:
    """What the tenant may use now that its subscription is like this.

    A subscription that gives no access takes away only what it gave itself, and one that gives access does not push
    out another that does: two subscriptions of one tenant would take turns.
    """
    allows = subscription.access in GIVES_ACCESS
    if held is None and not allows:
        return []
    if held is not None and held.subscription_id != subscription.subscription_id and (held.allows_access or not allows):
        return []
    content = {
        "plan": plan.plan,
        "version": plan.version,
        "tier": plan.tier,
        "placement": plan.placement,
        "features": [feature.model_dump(mode="json") for feature in plan.features],
        "allows_access": allows,
    }
    entitlements_hash = digest(content)
    if held is not None and held.entitlements_hash == entitlements_hash:
        return []
    return [
        EntitlementsSet(
            tenant_id=subscription.tenant_id,
            subscription_id=subscription.subscription_id,
            plan=subscription.plan,
            tier=plan.tier,
            placement=plan.placement,
            features=plan.features,
            allows_access=allows,
            entitlements_hash=entitlements_hash,
        )
    ]


def evolve(_held: Entitlements | None, event: EntitlementsSet) -> Entitlements:
    """The fact is the whole set."""
    match event:
        case EntitlementsSet():
            return Entitlements(
                id=event.tenant_id,
                subscription_id=event.subscription_id,
                plan=event.plan,
                tier=event.tier,
                placement=event.placement,
                features=event.features,
                allows_access=event.allows_access,
                entitlements_hash=event.entitlements_hash,
            )
        case _:
            assert_never(event)
