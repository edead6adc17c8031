"""Options of a sign-up: plans, regions and payment providers, as their owners published them."""

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
class SignupOptions:
    """Keys that one owner published. `id` is `plans`, `regions` or `payments`."""

    id: Key
    keys: tuple[Key, ...]
    source_hash: Digest


class OptionsNotPublishedError(RetryLaterError):
    """Billing or the provisioner has not published its options yet: the same request succeeds later."""

    code = "offerings_not_published"


class UnknownPlanError(DomainError):
    """The published catalogue has no such plan."""

    code = "unknown_plan"


class UnknownRegionError(DomainError):
    """The published blueprint has no such region."""

    code = "unknown_region"


class UnknownPaymentError(DomainError):
    """Billing has no such payment provider."""

    code = "unknown_payment"


def check_plan_and_region(
    plans: SignupOptions | None, regions: SignupOptions | None, *, plan: str, region: str
) -> None:
    """Raises OptionsNotPublishedError, UnknownPlanError or UnknownRegionError unless both are published."""
    if plans is None:
        raise OptionsNotPublishedError("billing has not published its plans yet; try again when it runs")
    if regions is None:
        raise OptionsNotPublishedError("the provisioner has not published its regions yet; try again when it runs")
    if plan not in plans.keys:
        raise UnknownPlanError(f"there is no plan {plan}; choose one of {', '.join(plans.keys)}")
    if region not in regions.keys:
        raise UnknownRegionError(f"there is no region {region}; choose one of {', '.join(regions.keys)}")


def check_payment(payments: SignupOptions | None, payment: str | None) -> None:
    """Raises OptionsNotPublishedError or UnknownPaymentError for an unpublished provider. None: billing's default."""
    if payment is None:
        return
    if payments is None:
        raise OptionsNotPublishedError("billing has not published its payment providers yet; try again when it runs")
    if payment not in payments.keys:
        raise UnknownPaymentError(f"there is no payment provider {payment}; choose one of {', '.join(payments.keys)}")


def on_providers_configured(payments: SignupOptions | None, fact: ProvidersConfigured) -> list[OfferingNoted]:
    """Records the payment providers."""
    return _record(payments, PAYMENTS, set(fact.names), fact.content_hash)


def on_catalogue_published(plans: SignupOptions | None, fact: CataloguePublished) -> list[OfferingNoted]:
    """Records the plans; a plan with many versions is one option."""
    return _record(plans, PLANS, {plan.plan for plan in fact.content.plans}, fact.content_hash)


def on_blueprint_published(regions: SignupOptions | None, fact: BlueprintPublished) -> list[OfferingNoted]:
    """Records the regions."""
    return _record(regions, REGIONS, set(fact.content.regions), fact.content_hash)


def evolve(_: SignupOptions | None, event: OfferingNoted) -> SignupOptions:
    """Returns the options of the newest event."""
    return SignupOptions(id=event.offering, keys=event.keys, source_hash=event.source_hash)


def _record(known: SignupOptions | None, offering: str, keys: set[str], source_hash: str) -> list[OfferingNoted]:
    if known is not None and known.source_hash == source_hash:
        return []
    return [OfferingNoted(offering=offering, keys=tuple(sorted(keys)), source_hash=source_hash)]
