"""Entitlements: what a tenant may use, by the plan version that its subscription pins and by what operators add."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

from paybill_contracts.billing import EntitlementsSet, PlanRef, Subscription
from paybill_contracts.catalogue import (
    BooleanFeature,
    Feature,
    LimitFeature,
    MeteredFeature,
    PlanVersion,
    StaticFeature,
)
from paybill_contracts.entitlements import EntitlementGranted, EntitlementOverridden, EntitlementWithdrawn
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.event import digest
from paybill_contracts.placement import Preset

from paybill_billing.catalogue.domain.catalogue import Catalogue, published
from paybill_billing.entitlements.domain.overrides import Grant, Override, effective, next_change, unexpired
from paybill_billing.subscriptions.domain.entitling import ENTITLING, entitling_subscriptions

EntitlementsEvent = EntitlementsSet | EntitlementOverridden | EntitlementGranted | EntitlementWithdrawn

MAX_OVERRIDES_AND_GRANTS = 100
"""Overrides and grants of one tenant: above that, it wants a plan of its own."""


class NothingEntitledError(NotFoundError):
    """The tenant has never had a subscription that gave access."""

    code = "nothing_entitled"


class NoSuchOverrideOrGrantError(NotFoundError):
    """Neither an override nor a grant of this tenant has the id, or it is over."""

    code = "no_such_override_or_grant"


class TooManyOverridesError(ConflictError):
    code = "too_many_overrides"


class InvalidValidityError(DomainError):
    """It would end before it begins, or has ended already."""

    code = "invalid_validity"


class FeatureKindError(DomainError):
    """Those who check a feature know its kind."""

    code = "other_kind_of_feature"


class UndeclaredMeterError(DomainError):
    code = "undeclared_meter"


class NotGrantableError(DomainError):
    """There is nothing that the amount could be added to."""

    code = "not_grantable"


@dataclass(frozen=True, slots=True)
class Entitlements:
    """The effective set of a tenant, from one subscription, and what operators add to its plan.

    plan_features: what the plan alone gives, None when that is what is in force. as_of: when overrides and grants were
    looked at last. due: when time alone changes the set.
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
    made: int = 0
    as_of: datetime | None = None
    due: datetime | None = None

    @property
    def features_of_plan(self) -> tuple[Feature, ...]:
        """What the plan alone gives."""
        return self.features if self.plan_features is None else self.plan_features


def fallback_of(others: Iterable[Subscription], sold: Catalogue) -> tuple[Subscription, PlanVersion] | None:
    """What takes over from a subscription that gives no access any more: always the same of several."""
    for other in entitling_subscriptions(others):
        return other, published(sold, other.plan.plan, other.plan.version).plan
    return None


def apply_subscription(
    held: Entitlements | None,
    subscription: Subscription,
    plan: PlanVersion,
    now: datetime,
    fallback: tuple[Subscription, PlanVersion] | None = None,
) -> list[EntitlementsEvent]:
    """What the tenant may use now that its subscription is like this. instead: another of its that gives access.

    A subscription that gives no access takes away only what it gave itself, when there is none instead; and one that
    gives access does not push out another that does: two subscriptions of one tenant would take turns. What operators
    added stays.
    """
    if held is not None and held.subscription_id != subscription.subscription_id and held.allows_access:
        return []
    if subscription.access not in ENTITLING and fallback is not None:
        subscription, plan = fallback
    allows = subscription.access in ENTITLING
    if not allows and (held is None or held.subscription_id != subscription.subscription_id):
        return []
    said = _set_of(
        Entitlements(
            id=subscription.tenant_id,
            subscription_id=subscription.subscription_id,
            plan=subscription.plan,
            tier=plan.tier,
            placement=plan.placement,
            features=plan.features,
            allows_access=allows,
            entitlements_hash="",
            set_revision=held.set_revision if held is not None else 0,
            overrides=held.overrides if held is not None else (),
            grants=held.grants if held is not None else (),
        ),
        now,
    )
    is_same = held is not None and (said.entitlements_hash, said.subscription_id) == (
        held.entitlements_hash,
        held.subscription_id,
    )
    return [] if is_same else [said]


def override(
    held: Entitlements | None,
    *,
    override_id: str,
    feature: Feature,
    valid_from: datetime,
    valid_until: datetime | None,
    reason: str,
    meters: Collection[str],
    now: datetime,
) -> list[EntitlementsEvent]:
    """Give the tenant this feature instead of its plan's. meters: those that are declared.

    Raises NothingEntitledError, ValidityError, OtherKindError, UndeclaredMeterError, TooManyExceptionsError.
    """
    entitled = _room(held, valid_from, valid_until, now)
    of_plan = next((each for each in entitled.features_of_plan if each.key == feature.key), feature)
    if of_plan.kind != feature.kind:
        raise FeatureKindError(f"{feature.key} is {of_plan.kind} in the plan, not {feature.kind}; override it as that")
    if isinstance(feature, MeteredFeature) and feature.meter not in meters:
        known = ", ".join(sorted(meters)) or "none"
        raise UndeclaredMeterError(f"no catalogue declares the meter {feature.meter}; there is {known}")
    made = EntitlementOverridden(
        tenant_id=entitled.id,
        override_id=override_id,
        feature=feature,
        valid_from=valid_from,
        valid_until=valid_until,
        reason=reason,
        decided_at=now,
    )
    return _followed(entitled, made, now)


def grant(
    held: Entitlements | None,
    *,
    grant_id: str,
    feature: str,
    amount: int,
    valid_from: datetime,
    valid_until: datetime | None,
    reason: str,
    now: datetime,
) -> list[EntitlementsEvent]:
    """Give the tenant more of a feature. amount: 0 for a boolean, which is switched on.

    Raises NothingEntitledError, ValidityError, NotGrantableError, TooManyExceptionsError.
    """
    entitled = _room(held, valid_from, valid_until, now)
    there = {
        each.key: each for each in effective(entitled.features_of_plan, entitled.overrides, (), max(valid_from, now))
    }
    match there.get(feature):
        case None:
            known = ", ".join(there) or "nothing"
            raise NotGrantableError(f"there is no {feature} to add to, only {known}; override {feature} to give it")
        case StaticFeature():
            raise NotGrantableError(f"{feature} is a fixed value; override it instead")
        case BooleanFeature() if amount != 0:
            raise NotGrantableError(f"{feature} is on or off: grant it without an amount")
        case LimitFeature() | MeteredFeature() if amount == 0:
            raise NotGrantableError(f"say how much more of {feature}")
        case _:
            made = EntitlementGranted(
                tenant_id=entitled.id,
                grant_id=grant_id,
                feature=feature,
                amount=amount,
                valid_from=valid_from,
                valid_until=valid_until,
                reason=reason,
                decided_at=now,
            )
            return _followed(entitled, made, now)


def withdraw(held: Entitlements | None, withdrawn_id: str, reason: str, now: datetime) -> list[EntitlementsEvent]:
    """Take an override or a grant back. Raises NothingEntitledError, NoSuchExceptionError."""
    entitled = existing(held)
    known = {each.id for each in unexpired(entitled.overrides, now)} | {
        each.id for each in unexpired(entitled.grants, now)
    }
    if withdrawn_id not in known:
        raise NoSuchOverrideOrGrantError(f"{entitled.id} has no override or grant {withdrawn_id} that is not over")
    gone = EntitlementWithdrawn(tenant_id=entitled.id, withdrawn_id=withdrawn_id, reason=reason, decided_at=now)
    return _followed(entitled, gone, now)


def on_time(held: Entitlements, now: datetime) -> list[EntitlementsEvent]:
    """An override or a grant begins or ends. It is told even when, late, all is as before: the time in it counts."""
    if held.due is None or now < held.due:
        return []
    return [_set_of(held, now)]


def evolve(held: Entitlements | None, event: EntitlementsEvent) -> Entitlements:
    """The entitlements after `event`; only `EntitlementsSet` may come first. What is over is forgotten."""
    if isinstance(event, EntitlementsSet):
        return _looked_at(
            Entitlements(
                id=event.tenant_id,
                subscription_id=event.subscription_id,
                plan=event.plan,
                tier=event.tier,
                placement=event.placement,
                features=event.features,
                allows_access=event.allows_access,
                entitlements_hash=event.entitlements_hash,
                set_revision=(held.set_revision if held is not None else 0) + 1,
                plan_features=event.plan_features,
                overrides=held.overrides if held is not None else (),
                grants=held.grants if held is not None else (),
                made=held.made if held is not None else 0,
            ),
            event.as_of,
        )
    entitled = existing(held)
    match event:
        case EntitlementOverridden():
            made = Override(
                event.override_id,
                event.feature,
                event.valid_from,
                event.valid_until,
                event.reason,
                entitled.made + 1,
            )
            after = replace(entitled, overrides=(*entitled.overrides, made), made=made.number)
        case EntitlementGranted():
            more = Grant(event.grant_id, event.feature, event.amount, event.valid_from, event.valid_until, event.reason)
            after = replace(entitled, grants=(*entitled.grants, more))
        case EntitlementWithdrawn():
            after = replace(
                entitled,
                overrides=tuple(each for each in entitled.overrides if each.id != event.withdrawn_id),
                grants=tuple(each for each in entitled.grants if each.id != event.withdrawn_id),
            )
        case _:
            assert_never(event)
    return _looked_at(after, event.decided_at)


def existing(held: Entitlements | None) -> Entitlements:
    """Raises NothingEntitledError when there is nothing to begin with."""
    if held is None:
        raise NothingEntitledError("the tenant has not subscribed to anything yet")
    return held


def _followed(held: Entitlements, made: EntitlementsEvent, now: datetime) -> list[EntitlementsEvent]:
    """What was decided, and the set that follows when it changes what is in force now."""
    said = _set_of(evolve(held, made), now)
    return [made] if said.entitlements_hash == held.entitlements_hash else [made, said]


def _set_of(held: Entitlements, now: datetime) -> EntitlementsSet:
    """The next set, as plan, operators and time make it now."""
    features = effective(held.features_of_plan, held.overrides, held.grants, now)
    content = {
        "plan": held.plan.plan,
        "version": held.plan.version,
        "tier": held.tier,
        "placement": held.placement,
        # What has its default is left out: a field that features gain later changes no hash.
        "features": [feature.model_dump(mode="json", exclude_defaults=True) for feature in features],
        "allows_access": held.allows_access,
    }
    return EntitlementsSet(
        tenant_id=held.id,
        subscription_id=held.subscription_id,
        plan=held.plan,
        tier=held.tier,
        placement=held.placement,
        features=features,
        allows_access=held.allows_access,
        entitlements_hash=digest(content),
        set_revision=held.set_revision + 1,
        plan_features=None if features == held.features_of_plan else held.features_of_plan,
        as_of=now,
    )


def _looked_at(held: Entitlements, at: datetime | None) -> Entitlements:
    """Without what is over at `at`, and with the next time at which the set changes by itself."""
    if at is None or not (held.overrides or held.grants):
        return replace(held, as_of=at, due=None)
    overrides, grants = unexpired(held.overrides, at), unexpired(held.grants, at)
    due = next_change(held.features_of_plan, overrides, grants, held.features, at)
    return replace(held, overrides=overrides, grants=grants, as_of=at, due=due)


def _room(held: Entitlements | None, valid_from: datetime, valid_until: datetime | None, now: datetime) -> Entitlements:
    entitled = existing(held)
    if valid_until is not None and valid_until <= max(valid_from, now):
        raise InvalidValidityError("it would end before it begins, or has ended already; let it end later")
    if len(unexpired(entitled.overrides, now)) + len(unexpired(entitled.grants, now)) >= MAX_OVERRIDES_AND_GRANTS:
        raise TooManyOverridesError(
            f"{entitled.id} has {MAX_OVERRIDES_AND_GRANTS} overrides and grants; withdraw some, or create a plan for it"
        )
    return entitled
