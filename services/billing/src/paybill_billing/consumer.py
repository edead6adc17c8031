"""The facts and offers that this service hears, and the verb for each."""

from paybill_contracts.billing import SubscriptionSuspended
from paybill_contracts.envelope import Offer
from paybill_contracts.tenant import OffboardingStarted, TenantCancelled, TenantRequested
from paybill_contracts.usage import Usage
from paybill_runtime.hearing import Hearing
from paybill_runtime.unit import Moment, Unit

from paybill_billing.domain import accounts, catalogue, entitlements, publishers, usage
from paybill_billing.tables import ACCOUNTS, CATALOGUES, ENTITLEMENTS, METERS, PUBLISHERS

HEARS = Hearing()

_CATALOGUE = CATALOGUES.key(catalogue.CATALOGUE)
_PUBLISHERS = PUBLISHERS.key(publishers.PUBLISHERS)


class CatalogueMissingError(Exception):
    """Nothing is published yet: the fact is parked, and heard again when something is."""


def _catalogue(unit: Unit) -> catalogue.Catalogue:
    found = unit.get(CATALOGUES, catalogue.CATALOGUE)
    if found is None:
        raise CatalogueMissingError("no catalogue is published yet")
    return found


@HEARS.fact(TenantRequested, writes=lambda fact: [ACCOUNTS.key(fact.tenant_id)], reads=lambda _: [_CATALOGUE])
def tenant_requested(unit: Unit, fact: TenantRequested, _: Moment) -> None:
    account = unit.get(ACCOUNTS, fact.tenant_id)
    unit.record(ACCOUNTS, fact.tenant_id, accounts.on_tenant_requested(account, _catalogue(unit), fact))


def _tenant_leaving(unit: Unit, fact: OffboardingStarted | TenantCancelled, _: Moment) -> None:
    account = unit.get(ACCOUNTS, fact.tenant_id)
    unit.record(ACCOUNTS, fact.tenant_id, accounts.on_tenant_leaving(account, fact))


HEARS.fact(OffboardingStarted, writes=lambda fact: [ACCOUNTS.key(fact.tenant_id)])(_tenant_leaving)
HEARS.fact(TenantCancelled, writes=lambda fact: [ACCOUNTS.key(fact.tenant_id)])(_tenant_leaving)


@HEARS.fact(SubscriptionSuspended, writes=lambda fact: [ENTITLEMENTS.key(fact.tenant_id)], reads=lambda _: [_CATALOGUE])
def subscription_suspended(unit: Unit, fact: SubscriptionSuspended, _: Moment) -> None:
    """A timer's decision sees its subscription alone, so entitlements follow it here; a webhook's settles both."""
    pinned = fact.subscription.plan
    sold = catalogue.published(_catalogue(unit), pinned.plan, pinned.version)
    held = unit.get(ENTITLEMENTS, fact.tenant_id)
    unit.record(ENTITLEMENTS, fact.tenant_id, entitlements.settle(held, fact.subscription, sold.plan))


@HEARS.offer(
    Usage,
    writes=lambda used: [METERS.key(usage.meter_id(used.tenant_id, used.meter))],
    reads=lambda used: [ACCOUNTS.key(used.tenant_id), ENTITLEMENTS.key(used.tenant_id), _PUBLISHERS],
)
def usage_recorded(unit: Unit, offer: Offer, at: Moment) -> None:
    used = offer.event
    if not isinstance(used, Usage):
        raise TypeError(f"{used.TYPE} is no usage")
    id_ = usage.meter_id(used.tenant_id, used.meter)
    events = usage.record(
        unit.get(METERS, id_),
        used,
        usage_id=offer.id,
        publisher=offer.publisher,
        allowed=publishers.may_report(unit.get(PUBLISHERS, publishers.PUBLISHERS), offer.publisher, used.tenant_id),
        account=unit.get(ACCOUNTS, used.tenant_id),
        entitlements=unit.get(ENTITLEMENTS, used.tenant_id),
        now=at.now,
    )
    unit.record(METERS, id_, events)
