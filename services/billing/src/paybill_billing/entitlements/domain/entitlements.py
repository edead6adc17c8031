"""Entitlements: the features of a tenant, from its subscription's plan version and from overrides and grants."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, assert_never

from paybill_contracts.billing import EntitlementsSet, Subscription
from paybill_contracts.catalogue import (
    BooleanFeature,
    Feature,
    LimitFeature,
    MeteredFeature,
    PlanRef,
    PlanVersion,
    StaticFeature,
)
from paybill_contracts.entitlements import EntitlementGranted, EntitlementOverridden, EntitlementWithdrawn
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.event import digest
from paybill_contracts.placement import Preset
from pydantic import Field

from paybill_billing.catalogue.domain.catalogue import Catalogue, published
from paybill_billing.entitlements.domain.overrides import Grant, Override, effective, next_change, unexpired
from paybill_billing.subscriptions.domain.entitling import ENTITLING, entitling_subscriptions

EntitlementsEvent = EntitlementsSet | EntitlementOverridden | EntitlementGranted | EntitlementWithdrawn

MAX_OVERRIDES_AND_GRANTS = 100
"""Maximum number of overrides and grants of one tenant; above that, it needs a plan of its own."""


class NothingEntitledError(NotFoundError):
    """The tenant never had an entitling subscription."""

    code = "nothing_entitled"


class NoSuchOverrideOrGrantError(NotFoundError):
    """No override or grant of this tenant has the id, or it has ended."""

    code = "no_such_override_or_grant"


class TooManyOverridesError(ConflictError):
    code = "too_many_overrides"


class InvalidValidityError(DomainError):
    """The validity ends before it begins, or in the past."""

    code = "invalid_validity"


class FeatureKindError(DomainError):
    """An override may not change a feature's kind: programs that check the feature depend on it."""

    code = "other_kind_of_feature"


class UndeclaredMeterError(DomainError):
    code = "undeclared_meter"


class NotGrantableError(DomainError):
    """The feature has no value to which the amount could be added."""

    code = "not_grantable"


@dataclass(frozen=True, slots=True)
class Entitlements:
    """The effective feature set of a tenant, from one subscription and from overrides and grants.

    plan_features: the plan's own features; None when they equal `features`. override_count: overrides made so far.
    as_of: the time for which overrides and grants were last evaluated. due: the next time at which a beginning or an
    end of validity changes the set.
    """

    id: str
    subscription_id: str
    plan: PlanRef
    tier: str
    placement: Preset
    features: tuple[Feature, ...]
    allows_access: bool
    entitlements_hash: str
    set_revision: int = 0
    plan_features: tuple[Feature, ...] | None = None
    overrides: tuple[Override, ...] = ()
    grants: tuple[Grant, ...] = ()
    override_count: Annotated[int, Field(alias="made")] = 0
    as_of: datetime | None = None
    due: datetime | None = None

    @property
    def features_of_plan(self) -> tuple[Feature, ...]:
        """The plan's features, without overrides and grants."""
        return self.features if self.plan_features is None else self.plan_features


def fallback_of(others: Iterable[Subscription], catalogue: Catalogue) -> tuple[Subscription, PlanVersion] | None:
    """Returns the entitling subscription that replaces one without access, deterministic among several."""
    for other in entitling_subscriptions(others):
        return other, published(catalogue, other.plan.plan, other.plan.version).plan
    return None


def apply_subscription(
    current: Entitlements | None,
    subscription: Subscription,
    plan: PlanVersion,
    now: datetime,
    fallback: tuple[Subscription, PlanVersion] | None = None,
) -> list[EntitlementsEvent]:
    """Updates the tenant's entitlements from the state of one subscription. fallback: its other entitling subscription.

    A subscription without access removes only the entitlements that it gave, unless there is a fallback. A subscription
    with access does not replace another one with access: two subscriptions of one tenant would alternate. Overrides and
    grants are kept.
    """
    if current is not None and current.subscription_id != subscription.subscription_id and current.allows_access:
        return []
    if subscription.access not in ENTITLING and fallback is not None:
        subscription, plan = fallback
    allows = subscription.access in ENTITLING
    if not allows and (current is None or current.subscription_id != subscription.subscription_id):
        return []
    event = _set_of(
        Entitlements(
            id=subscription.tenant_id,
            subscription_id=subscription.subscription_id,
            plan=subscription.plan,
            tier=plan.tier,
            placement=plan.placement,
            features=plan.features,
            allows_access=allows,
            entitlements_hash="",
            set_revision=current.set_revision if current is not None else 0,
            overrides=current.overrides if current is not None else (),
            grants=current.grants if current is not None else (),
        ),
        now,
    )
    is_same = current is not None and (event.entitlements_hash, event.subscription_id) == (
        current.entitlements_hash,
        current.subscription_id,
    )
    return [] if is_same else [event]


def override(
    current: Entitlements | None,
    *,
    override_id: str,
    feature: Feature,
    valid_from: datetime,
    valid_until: datetime | None,
    reason: str,
    meters: Collection[str],
    now: datetime,
) -> list[EntitlementsEvent]:
    """Overrides or adds a feature for the tenant. meters: the declared ones.

    Raises NothingEntitledError, InvalidValidityError, FeatureKindError, UndeclaredMeterError, TooManyOverridesError.
    """
    entitled = _extensible(current, valid_from, valid_until, now)
    of_plan = next((each for each in entitled.features_of_plan if each.key == feature.key), feature)
    if of_plan.kind != feature.kind:
        raise FeatureKindError(f"{feature.key} is {of_plan.kind} in the plan, not {feature.kind}; keep the plan's kind")
    if isinstance(feature, MeteredFeature) and feature.meter not in meters:
        declared = ", ".join(sorted(meters)) or "none"
        raise UndeclaredMeterError(f"no catalogue declares the meter {feature.meter}; declared meters: {declared}")
    overridden = EntitlementOverridden(
        tenant_id=entitled.id,
        override_id=override_id,
        feature=feature,
        valid_from=valid_from,
        valid_until=valid_until,
        reason=reason,
        decided_at=now,
    )
    return _with_new_set(entitled, overridden, now)


def grant(
    current: Entitlements | None,
    *,
    grant_id: str,
    feature: str,
    amount: int,
    valid_from: datetime,
    valid_until: datetime | None,
    reason: str,
    now: datetime,
) -> list[EntitlementsEvent]:
    """Adds an amount to a feature of the tenant. amount: 0 for a boolean, which is switched on.

    Raises NothingEntitledError, InvalidValidityError, NotGrantableError, TooManyOverridesError.
    """
    entitled = _extensible(current, valid_from, valid_until, now)
    features = {
        each.key: each for each in effective(entitled.features_of_plan, entitled.overrides, (), max(valid_from, now))
    }
    match features.get(feature):
        case None:
            keys = ", ".join(features) or "none"
            raise NotGrantableError(f"there is no feature {feature}, only {keys}; override {feature} to add it")
        case StaticFeature():
            raise NotGrantableError(f"{feature} is a fixed value; override it instead")
        case BooleanFeature() if amount != 0:
            raise NotGrantableError(f"{feature} is a boolean; grant it without an amount")
        case LimitFeature() | MeteredFeature() if amount == 0:
            raise NotGrantableError(f"give the amount to add to {feature}")
        case _:
            granted = EntitlementGranted(
                tenant_id=entitled.id,
                grant_id=grant_id,
                feature=feature,
                amount=amount,
                valid_from=valid_from,
                valid_until=valid_until,
                reason=reason,
                decided_at=now,
            )
            return _with_new_set(entitled, granted, now)


def withdraw(current: Entitlements | None, withdrawn_id: str, reason: str, now: datetime) -> list[EntitlementsEvent]:
    """Ends an override or a grant now. Raises NothingEntitledError, NoSuchOverrideOrGrantError."""
    entitled = existing(current)
    active = {each.id for each in unexpired(entitled.overrides, now)} | {
        each.id for each in unexpired(entitled.grants, now)
    }
    if withdrawn_id not in active:
        raise NoSuchOverrideOrGrantError(f"{entitled.id} has no override or grant {withdrawn_id}, or it has ended")
    withdrawn = EntitlementWithdrawn(tenant_id=entitled.id, withdrawn_id=withdrawn_id, reason=reason, decided_at=now)
    return _with_new_set(entitled, withdrawn, now)


def on_time(current: Entitlements, now: datetime) -> list[EntitlementsEvent]:
    """Emits the set when an override or a grant begins or ends.

    A late timer emits it even if the features are the same, because `as_of` advances.
    """
    if current.due is None or now < current.due:
        return []
    return [_set_of(current, now)]


def evolve(current: Entitlements | None, event: EntitlementsEvent) -> Entitlements:
    """Returns the entitlements after `event`; only `EntitlementsSet` may come first. Ended validities are dropped."""
    if isinstance(event, EntitlementsSet):
        return _evaluated(
            Entitlements(
                id=event.tenant_id,
                subscription_id=event.subscription_id,
                plan=event.plan,
                tier=event.tier,
                placement=event.placement,
                features=event.features,
                allows_access=event.allows_access,
                entitlements_hash=event.entitlements_hash,
                set_revision=(current.set_revision if current is not None else 0) + 1,
                plan_features=event.plan_features,
                overrides=current.overrides if current is not None else (),
                grants=current.grants if current is not None else (),
                override_count=current.override_count if current is not None else 0,
            ),
            event.as_of,
        )
    entitled = existing(current)
    match event:
        case EntitlementOverridden():
            made = Override(
                event.override_id,
                event.feature,
                event.valid_from,
                event.valid_until,
                event.reason,
                entitled.override_count + 1,
            )
            after = replace(entitled, overrides=(*entitled.overrides, made), override_count=made.number)
        case EntitlementGranted():
            added = Grant(
                event.grant_id, event.feature, event.amount, event.valid_from, event.valid_until, event.reason
            )
            after = replace(entitled, grants=(*entitled.grants, added))
        case EntitlementWithdrawn():
            after = replace(
                entitled,
                overrides=tuple(each for each in entitled.overrides if each.id != event.withdrawn_id),
                grants=tuple(each for each in entitled.grants if each.id != event.withdrawn_id),
            )
        case _:
            assert_never(event)
    return _evaluated(after, event.decided_at)


def existing(current: Entitlements | None) -> Entitlements:
    """Returns `current`. Raises NothingEntitledError when it is None."""
    if current is None:
        raise NothingEntitledError("the tenant has no subscription yet")
    return current


def _with_new_set(current: Entitlements, decided: EntitlementsEvent, now: datetime) -> list[EntitlementsEvent]:
    """Returns `decided`, and the new set if the features in force change."""
    new_set = _set_of(evolve(current, decided), now)
    return [decided] if new_set.entitlements_hash == current.entitlements_hash else [decided, new_set]


def _set_of(current: Entitlements, now: datetime) -> EntitlementsSet:
    """Returns the next set, evaluated for `now`."""
    features = effective(current.features_of_plan, current.overrides, current.grants, now)
    content = {
        "plan": current.plan.plan,
        "version": current.plan.version,
        "tier": current.tier,
        "placement": current.placement,
        # Defaults are left out, so that a field added to features later changes no hash.
        "features": [feature.model_dump(mode="json", exclude_defaults=True) for feature in features],
        "allows_access": current.allows_access,
    }
    return EntitlementsSet(
        tenant_id=current.id,
        subscription_id=current.subscription_id,
        plan=current.plan,
        tier=current.tier,
        placement=current.placement,
        features=features,
        allows_access=current.allows_access,
        entitlements_hash=digest(content),
        set_revision=current.set_revision + 1,
        plan_features=None if features == current.features_of_plan else current.features_of_plan,
        as_of=now,
    )


def _evaluated(current: Entitlements, at: datetime | None) -> Entitlements:
    """Drops overrides and grants that have ended at `at`, and sets `due` to the next change."""
    if at is None or not (current.overrides or current.grants):
        return replace(current, as_of=at, due=None)
    overrides, grants = unexpired(current.overrides, at), unexpired(current.grants, at)
    due = next_change(current.features_of_plan, overrides, grants, current.features, at)
    return replace(current, overrides=overrides, grants=grants, as_of=at, due=due)


def _extensible(
    current: Entitlements | None, valid_from: datetime, valid_until: datetime | None, now: datetime
) -> Entitlements:
    entitled = existing(current)
    if valid_until is not None and valid_until <= max(valid_from, now):
        raise InvalidValidityError("the validity ends before it begins, or in the past; choose a later end")
    if len(unexpired(entitled.overrides, now)) + len(unexpired(entitled.grants, now)) >= MAX_OVERRIDES_AND_GRANTS:
        raise TooManyOverridesError(
            f"{entitled.id} has {MAX_OVERRIDES_AND_GRANTS} overrides and grants; withdraw some, or create a plan for it"
        )
    return entitled
