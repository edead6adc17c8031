"""Content of a quote: the features and the prices of usage that a change brings, and the phases that it drops."""

from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from paybill_contracts.billing import Subscription
from paybill_contracts.catalogue import MeteredFeature, PlanVersion
from paybill_contracts.changes import ChangeKind as Kind
from paybill_contracts.changes import FeatureDifference, Overage, PendingEnvironment, Proration, WantedChange
from paybill_contracts.money import Money

from paybill_billing.catalogue.domain.catalogue import overage_of
from paybill_billing.subscriptions.domain.change_requests import interval_of


@dataclass(frozen=True, slots=True)
class Quote:
    """The cost and the feature differences of a change, as in `ChangeQuoted`."""

    proration: Proration
    features: tuple[FeatureDifference, ...]
    tier_before: str
    tier_after: str
    placement_before: str
    placement_after: str
    valid_until: datetime
    quote_hash: str
    overdue: Money | None = None
    overage: tuple[Overage, ...] = ()
    environment: PendingEnvironment | None = None


def differences(before: PlanVersion | None, after: PlanVersion | None) -> tuple[FeatureDifference, ...]:
    """Returns the feature differences of two plans, by key; None has no features."""
    old = {feature.key: feature for feature in before.features} if before is not None else {}
    new = {feature.key: feature for feature in after.features} if after is not None else {}
    return tuple(
        FeatureDifference(before=old.get(key), after=new.get(key))
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    )


def feature_differences(kind: Kind, before: PlanVersion, after: PlanVersion) -> tuple[FeatureDifference, ...]:
    """Returns the features that the tenant gains and loses; a cancelled or paused subscription has none."""
    match kind:
        case Kind.PLAN | Kind.REACTIVATE:
            return differences(before, after)
        case Kind.CANCEL | Kind.PAUSE:
            return differences(before, None)
        case Kind.RESUME:
            return differences(None, after)
        case _:
            assert_never(kind)


def drops_scheduled(desired: WantedChange, proration: Proration) -> str | None:
    """Returns why the change must not drop scheduled phases; None when it may.

    One scheduled phase is a change that was requested for the end of the period, which another change replaces.
    A reactivation withdraws what is scheduled: that is its request.
    """
    if desired.drop_scheduled or desired.kind is Kind.REACTIVATE or len(proration.dropped) <= 1:
        return None
    phases = ", ".join(f"{phase.text} from {phase.starts_at:%Y-%m-%d}" for phase in proration.dropped)
    return f"the change drops what is scheduled: {phases}; request it again with --drop-scheduled"[:500]


def overage_after(
    desired: WantedChange, subscription: Subscription, before: PlanVersion, after: PlanVersion
) -> tuple[Overage, ...]:
    """Returns the prices of usage after the change; a cancelled or paused subscription has none."""
    if desired.kind in {Kind.CANCEL, Kind.PAUSE}:
        return ()
    currency, interval = subscription.price.currency, interval_of(subscription, before)
    if desired.plan is not None:
        interval = after.prices[desired.price_index].interval
    included = {each.key: each.included for each in after.features if isinstance(each, MeteredFeature)}
    return tuple(
        Overage(feature=each.feature, included=included[each.feature], amount=each.amount, units=each.units)
        for each in overage_of(after, currency, interval)
    )
