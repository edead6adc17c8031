"""What may be asked for when signing up: plans, regions and ways to pay, as their owners published them."""

from dataclasses import dataclass

from paybill_contracts.catalogue import CataloguePublished
from paybill_contracts.errors import DomainError, RetryLaterError
from paybill_contracts.providers import ProvidersConfigured
from paybill_contracts.provisioner import BlueprintPublished
from paybill_contracts.tenant import OfferingNoted
from paybill_contracts.values import Digest, Key

PLANS = "plans"
REGIONS = "regions"
PAYMENTS = "payments"


@dataclass(frozen=True, slots=True)
class Offering:
    """The keys that one owner offers. `id` is `plans`, `regions` or `payments`."""

    id: Key
    keys: tuple[Key, ...]
    source_hash: Digest


class OfferingsNotPublishedError(RetryLaterError):
    """Billing or the provisioner has not said yet what may be asked for: the same request succeeds later."""

    code = "offerings_not_published"


class UnknownPlanError(DomainError):
    """Not in the catalogue that billing published."""

    code = "unknown_plan"


class UnknownRegionError(DomainError):
    """Not in the blueprint that the provisioner published."""

    code = "unknown_region"


class UnknownPaymentError(DomainError):
    """None of the providers that billing has."""

    code = "unknown_payment"


def check_offered(plans: Offering | None, regions: Offering | None, *, plan: str, region: str) -> None:
    """Raise OfferingsNotPublishedError, UnknownPlanError or UnknownRegionError unless both can be had."""
    if plans is None:
        raise OfferingsNotPublishedError("billing has not published its plans yet; try again when it runs")
    if regions is None:
        raise OfferingsNotPublishedError("the provisioner has not published its regions yet; try again when it runs")
    if plan not in plans.keys:
        raise UnknownPlanError(f"there is no plan {plan}; choose one of {', '.join(plans.keys)}")
    if region not in regions.keys:
        raise UnknownRegionError(f"there is no region {region}; choose one of {', '.join(regions.keys)}")


def check_payment(payments: Offering | None, payment: str | None) -> None:
    """Raise OfferingsNotPublishedError or UnknownPaymentError unless one can pay like this. None: billing chooses."""
    if payment is None:
        return
    if payments is None:
        raise OfferingsNotPublishedError("billing has not said yet how one can pay; try again when it runs")
    if payment not in payments.keys:
        raise UnknownPaymentError(f"nobody can pay by {payment}; choose one of {', '.join(payments.keys)}")


def on_providers_configured(payments: Offering | None, fact: ProvidersConfigured) -> list[OfferingNoted]:
    """Note how one can pay."""
    return _note(payments, PAYMENTS, set(fact.names), fact.content_hash)


def on_catalogue_published(plans: Offering | None, fact: CataloguePublished) -> list[OfferingNoted]:
    """Note the plans; a plan has many versions and is offered once."""
    return _note(plans, PLANS, {plan.plan for plan in fact.content.plans}, fact.content_hash)


def on_blueprint_published(regions: Offering | None, fact: BlueprintPublished) -> list[OfferingNoted]:
    """Note the regions."""
    return _note(regions, REGIONS, set(fact.content.regions), fact.content_hash)


def evolve(_: Offering | None, event: OfferingNoted) -> Offering:
    """An offering is the last that was noted."""
    return Offering(id=event.offering, keys=event.keys, source_hash=event.source_hash)


def _note(known: Offering | None, offering: str, keys: set[str], source_hash: str) -> list[OfferingNoted]:
    if known is not None and known.source_hash == source_hash:
        return []
    return [OfferingNoted(offering=offering, keys=tuple(sorted(keys)), source_hash=source_hash)]
