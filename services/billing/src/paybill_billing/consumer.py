"""The facts and offers that this service hears, and the verb for each."""

from paybill_contracts.billing import (
    EntitlementsSet,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionFact,
    SubscriptionGraceStarted,
    SubscriptionPaused,
    SubscriptionRecovered,
    SubscriptionSuspended,
)
from paybill_contracts.envelope import IntakeEvent
from paybill_contracts.licences import LicenceRevoked, RevocationOrigin
from paybill_contracts.provisioner import BlueprintPublished
from paybill_contracts.tenant import OffboardingStarted, TenantCancelled, TenantRequested
from paybill_contracts.usage import Usage
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.messaging.subscriptions import Subscriptions

from paybill_billing.catalogue.domain import catalogue, tiers
from paybill_billing.catalogue.tables import CATALOGUES, TIERS
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.licences.domain import licences, revocations
from paybill_billing.licences.tables import LICENCES, REVOCATION_LISTS
from paybill_billing.providers import domain as providers
from paybill_billing.providers.tables import PROVIDERS
from paybill_billing.subscriptions.domain import accounts
from paybill_billing.subscriptions.tables import ACCOUNTS, SUBSCRIPTIONS
from paybill_billing.usage.domain import publishers, usage
from paybill_billing.usage.tables import DISTINCT_SETS, METERS, PUBLISHERS

HANDLERS = Subscriptions()

_CATALOGUE = CATALOGUES.key(catalogue.CATALOGUE)
_REVOCATIONS = REVOCATION_LISTS.key(revocations.REVOCATIONS)
_TIERS = TIERS.key(tiers.TIERS)
_PROVIDERS = PROVIDERS.key(providers.PROVIDERS)
_PUBLISHERS = PUBLISHERS.key(publishers.PUBLISHERS)


@HANDLERS.fact(BlueprintPublished, writes=lambda _: [_TIERS])
def blueprint_published(unit: UnitOfWork, fact: BlueprintPublished, _: DecisionContext) -> None:
    unit.record(TIERS, tiers.TIERS, tiers.on_blueprint_published(unit.get(TIERS, tiers.TIERS), fact))


class CatalogueMissingError(Exception):
    """Nothing is published yet: the fact is parked, and heard again when something is."""


class ProvidersMissingError(Exception):
    """Nobody can pay anywhere yet: the fact is parked, and heard again when somebody can."""


def _catalogue(unit: UnitOfWork) -> catalogue.Catalogue:
    found = unit.get(CATALOGUES, catalogue.CATALOGUE)
    if found is None:
        raise CatalogueMissingError("no catalogue is published yet")
    return found


@HANDLERS.fact(
    TenantRequested, writes=lambda fact: [ACCOUNTS.key(fact.tenant_id)], reads=lambda _: [_CATALOGUE, _PROVIDERS]
)
def tenant_requested(unit: UnitOfWork, fact: TenantRequested, _: DecisionContext) -> None:
    account, choice = unit.get(ACCOUNTS, fact.tenant_id), unit.get(PROVIDERS, providers.PROVIDERS)
    if choice is None:
        raise ProvidersMissingError("no provider is configured yet")
    unit.record(ACCOUNTS, fact.tenant_id, accounts.on_tenant_requested(account, _catalogue(unit), choice, fact))


def _tenant_leaving(unit: UnitOfWork, fact: OffboardingStarted | TenantCancelled, _: DecisionContext) -> None:
    account = unit.get(ACCOUNTS, fact.tenant_id)
    unit.record(ACCOUNTS, fact.tenant_id, accounts.on_tenant_leaving(account, fact))


HANDLERS.fact(OffboardingStarted, writes=lambda fact: [ACCOUNTS.key(fact.tenant_id)])(_tenant_leaving)
HANDLERS.fact(TenantCancelled, writes=lambda fact: [ACCOUNTS.key(fact.tenant_id)])(_tenant_leaving)


def _licence(fact: EntitlementsSet | SubscriptionFact) -> list[Key]:
    return [LICENCES.key(licences.licence_id(fact.subscription_id))]


def _bought(fact: EntitlementsSet | SubscriptionFact) -> list[Key]:
    return [ENTITLEMENTS.key(fact.tenant_id), SUBSCRIPTIONS.key(fact.subscription_id)]


def _licence_follows(unit: UnitOfWork, fact: EntitlementsSet | SubscriptionFact, at: DecisionContext) -> None:
    """What a subscription gives has changed, or how much of it: its licence says so too."""
    id_ = licences.licence_id(fact.subscription_id)
    standing = unit.get(SUBSCRIPTIONS, fact.subscription_id)
    subscription = standing.subscription if standing is not None else None
    held = unit.get(ENTITLEMENTS, fact.tenant_id)
    unit.record(LICENCES, id_, licences.on_subscription_changed(unit.get(LICENCES, id_), held, subscription, at.now))


def _suspended(fact: SubscriptionSuspended) -> list[Key]:
    ids = [fact.subscription_id] if fact.instead is None else [fact.subscription_id, fact.instead]
    return [_CATALOGUE, *map(SUBSCRIPTIONS.key, ids)]


@HANDLERS.fact(
    SubscriptionSuspended,
    writes=lambda fact: [ENTITLEMENTS.key(fact.tenant_id), *_licence(fact)],
    reads=_suspended,
)
def subscription_suspended(unit: UnitOfWork, fact: SubscriptionSuspended, at: DecisionContext) -> None:
    """A timer's decision writes its subscription alone, so entitlements follow it here; a webhook's settles both."""
    sold, pinned = _catalogue(unit), fact.subscription.plan
    plan = catalogue.published(sold, pinned.plan, pinned.version).plan
    other = unit.get(SUBSCRIPTIONS, fact.instead) if fact.instead is not None else None
    instead = entitlements.fallback_of([other.subscription] if other is not None else [], sold)
    held = unit.get(ENTITLEMENTS, fact.tenant_id)
    unit.record(
        ENTITLEMENTS, fact.tenant_id, entitlements.apply_subscription(held, fact.subscription, plan, at.now, instead)
    )
    _licence_follows(unit, fact, at)


HANDLERS.fact(EntitlementsSet, writes=_licence, reads=_bought)(_licence_follows)
HANDLERS.fact(SubscriptionPaused, writes=_licence, reads=_bought)(_licence_follows)
HANDLERS.fact(SubscriptionChanged, writes=_licence, reads=_bought)(_licence_follows)
HANDLERS.fact(SubscriptionGraceStarted, writes=_licence, reads=_bought)(_licence_follows)
HANDLERS.fact(SubscriptionRecovered, writes=_licence, reads=_bought)(_licence_follows)


@HANDLERS.fact(SubscriptionEnded, writes=_licence)
def subscription_ended(unit: UnitOfWork, fact: SubscriptionEnded, _: DecisionContext) -> None:
    id_ = licences.licence_id(fact.subscription_id)
    said = licences.revoke(unit.get(LICENCES, id_), "the subscription has ended", RevocationOrigin.SUBSCRIPTION_ENDED)
    unit.record(LICENCES, id_, said)


@HANDLERS.fact(LicenceRevoked, writes=lambda _: [_REVOCATIONS])
def licence_revoked(unit: UnitOfWork, fact: LicenceRevoked, at: DecisionContext) -> None:
    known = unit.get(REVOCATION_LISTS, revocations.REVOCATIONS)
    unit.record(REVOCATION_LISTS, revocations.REVOCATIONS, revocations.on_licence_revoked(known, fact, at.now))


def _counted_by(used: Usage) -> list[Key]:
    """The meter, and where it keeps what it has seen of this kind."""
    shard = usage.shard_of(used)
    meter = METERS.key(usage.meter_id(used.tenant_id, used.meter))
    return [meter] if shard is None else [meter, DISTINCT_SETS.key(shard)]


@HANDLERS.intake(
    Usage,
    writes=_counted_by,
    reads=lambda used: [ACCOUNTS.key(used.tenant_id), ENTITLEMENTS.key(used.tenant_id), _PUBLISHERS, _CATALOGUE],
)
def usage_recorded(unit: UnitOfWork, offer: IntakeEvent, at: DecisionContext) -> None:
    used = offer.event
    if not isinstance(used, Usage):
        raise TypeError(f"{used.TYPE} is no usage")
    publishers.require_grant(unit.get(PUBLISHERS, publishers.PUBLISHERS), offer.publisher, used.tenant_id)
    id_, shard = usage.meter_id(used.tenant_id, used.meter), usage.shard_of(used)
    counted = usage.record(
        unit.get(METERS, id_),
        unit.get(DISTINCT_SETS, shard) if shard is not None else None,
        used,
        usage_id=offer.id,
        publisher=offer.publisher,
        plan=usage.Plan(
            account=unit.get(ACCOUNTS, used.tenant_id),
            entitlements=unit.get(ENTITLEMENTS, used.tenant_id),
            catalogue=_catalogue(unit),
        ),
        arrived=offer.time,
        now=at.now,
    )
    unit.record(METERS, id_, counted.on_meter)
    if shard is not None:
        unit.record(DISTINCT_SETS, shard, counted.on_distinct_set)
