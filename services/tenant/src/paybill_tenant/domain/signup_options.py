"""Options of a sign-up: plans, regions and payment providers, as their owners published them."""

from dataclasses import dataclass, replace

from paybill_contracts.blueprints import BlueprintPublished
from paybill_contracts.catalogue import Catalogue, CataloguePublished, OveragePrice, Price
from paybill_contracts.charges import STRIPE, excess
from paybill_contracts.errors import DomainError, RetryLaterError
from paybill_contracts.money import MAX_MINOR, Money
from paybill_contracts.providers import ProvidersConfigured
from paybill_contracts.purchases import FIRST_PRICE, PlanPrices, PurchaseTerms, named_prices, price_for, total_of
from paybill_contracts.tenant import OfferingNoted
from paybill_contracts.values import Count, Digest, Key

PLANS = "plans"
REGIONS = "regions"
PAYMENTS = "payments"
MANUAL = "manual"
"""The payment provider for payment by invoice, which knows no coupons."""

# fmt: off
RESERVED_SLUGS = frozenset({
    "admin", "administrator", "api", "app", "assets", "auth", "billing", "cdn", "console", "default", "docs", "help",
    "localhost", "login", "mail", "metrics", "nats", "null", "operator", "paybill", "postgres", "provisioner", "public",
    "root", "smtp", "static", "status", "support", "system", "template0", "template1", "tenant", "www",
})
# fmt: on
"""Names that could be mistaken for ours or PostgreSQL's in a host name or a database role."""

RESERVED_PREFIXES = ("pg-", "xn--")
"""PostgreSQL reserves `pg_`, and IDNA reserves `xn--` (RFC 5890, 2.3.1)."""


@dataclass(frozen=True, slots=True)
class SignupOptions:
    """Keys that one owner published. `id` is `plans`, `regions` or `payments`. prices: of the plans.

    default: the payment provider of sign-ups that name none; None while it is unknown.
    """

    id: Key
    keys: tuple[Key, ...]
    source_hash: Digest
    prices: tuple[PlanPrices, ...] = ()
    default: Key | None = None


@dataclass(frozen=True, slots=True)
class SignupQuote:
    """The price that a sign-up would have. total: of a whole period, without the discount of a coupon.

    overage: of metered features, sold with this price. had_trial: the customer has had the trial of the plan.
    """

    price: Price
    quantity: Count
    total: Money
    trial_days: Count
    overage: tuple[OveragePrice, ...] = ()
    had_trial: bool = False


class OptionsNotPublishedError(RetryLaterError):
    """Billing or the provisioner has not published its options yet: the same request succeeds later."""

    code = "offerings_not_published"


class SlugReservedError(DomainError):
    """The slug could be mistaken for a name of ours."""

    code = "slug_reserved"


class UnknownPlanError(DomainError):
    """The published catalogue has no such plan."""

    code = "unknown_plan"


class UnknownRegionError(DomainError):
    """The published blueprint has no such region."""

    code = "unknown_region"


class UnknownPaymentError(DomainError):
    """Billing has no such payment provider."""

    code = "unknown_payment"


class NoSuchPriceError(DomainError):
    """The plan has no price with this interval and currency."""

    code = "no_such_price"


class QuantityOutOfBoundsError(DomainError):
    """The price of this quantity is too large to be charged."""

    code = "quantity_out_of_bounds"


class NoCouponsError(DomainError):
    """Payment by invoice knows no coupons: the price is agreed in the offer."""

    code = "no_coupons"


class NoExistingCustomersError(DomainError):
    """Payment by invoice has no customers of its own that could become tenants."""

    code = "no_existing_customers"


class TermsOfCustomerError(DomainError):
    """An existing customer of the provider has its subscription, so that a sign-up cannot choose its terms."""

    code = "terms_of_existing_customer"


def check_request(
    plans: SignupOptions | None,
    regions: SignupOptions | None,
    *,
    slug: str,
    plan: str,
    region: str,
    payments: SignupOptions | None = None,
    payment: str | None = None,
    customer: str | None = None,
    terms: PurchaseTerms | None = None,
) -> SignupQuote | None:
    """Returns the price of a request, None while it is unknown. Raises what `request` raises."""
    if slug in RESERVED_SLUGS or slug.startswith(RESERVED_PREFIXES):
        raise SlugReservedError(f"the slug {slug} is reserved; choose another")
    check_plan_and_region(plans, regions, plan=plan, region=region)
    check_payment(payments, payment)
    provider = payments.default if payment is None and payments is not None else payment
    if provider == MANUAL:
        if terms is not None and terms.coupon is not None:
            raise NoCouponsError("payment by invoice knows no coupons; agree on the price in the offer")
        if customer is not None:
            raise NoExistingCustomersError("payment by invoice has no existing customers; leave out the customer")
    return quote(plans, plan, terms or FIRST_PRICE, customer, provider)


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


def quote(
    plans: SignupOptions | None, plan: str, terms: PurchaseTerms, customer: str | None, payment: str | None = None
) -> SignupQuote | None:
    """Returns the price of `terms`. None for an existing customer, and while the prices are unknown: billing decides.

    payment: the provider; None while it is unknown, and may be Stripe with its limit. Raises
    NoSuchPriceError, QuantityOutOfBoundsError, TermsOfCustomerError.
    """
    if customer is not None:
        if terms != FIRST_PRICE:
            raise TermsOfCustomerError(
                f"{customer} keeps the subscription that it has: leave out interval, currency, quantity and coupon"
            )
        return None
    for known in plans.prices if plans is not None else ():
        if known.plan == plan:
            price = price_for(known.prices, terms)
            if price is None:
                raise NoSuchPriceError(f"{plan} has no such price; choose one of: {named_prices(known.prices)}")
            if price.amount.minor * terms.quantity > MAX_MINOR:
                raise QuantityOutOfBoundsError(f"{terms.quantity} of {plan} cannot be charged; choose fewer")
            reason = excess(price.amount, terms.quantity) if payment in {None, STRIPE} else None
            if reason is not None:
                raise QuantityOutOfBoundsError(f"{reason}; choose fewer of {plan}")
            sold = price.amount.currency, price.interval
            overage = tuple(each for each in known.overage if (each.amount.currency, each.interval) == sold)
            return SignupQuote(price, terms.quantity, total_of(price, terms.quantity), known.trial_days, overage)
    return None


def without_trial(quote: SignupQuote) -> SignupQuote:
    """Returns the quote for a customer who has had the trial of the plan."""
    return replace(quote, trial_days=0, had_trial=True)


def on_providers_configured(payments: SignupOptions | None, fact: ProvidersConfigured) -> list[OfferingNoted]:
    """Records the payment providers."""
    return _record(payments, PAYMENTS, set(fact.names), fact.content_hash, default=fact.default)


def on_catalogue_published(plans: SignupOptions | None, fact: CataloguePublished) -> list[OfferingNoted]:
    """Records the plans and their prices; a plan with many versions is one option, at the price of the newest."""
    keys = {plan.plan for plan in fact.content.plans}
    return _record(plans, PLANS, keys, fact.content_hash, _prices(fact.content))


def on_blueprint_published(regions: SignupOptions | None, fact: BlueprintPublished) -> list[OfferingNoted]:
    """Records the regions."""
    return _record(regions, REGIONS, set(fact.known_regions), fact.content_hash)


def evolve(_: SignupOptions | None, event: OfferingNoted) -> SignupOptions:
    """Returns the options of the newest event."""
    return SignupOptions(
        id=event.offering,
        keys=event.keys,
        source_hash=event.source_hash,
        prices=event.prices,
        default=event.default,
    )


def _record(
    known: SignupOptions | None,
    offering: str,
    keys: set[str],
    source_hash: str,
    prices: tuple[PlanPrices, ...] = (),
    default: str | None = None,
) -> list[OfferingNoted]:
    if known is not None and (known.source_hash, known.prices, known.default) == (source_hash, prices, default):
        return []
    return [
        OfferingNoted(
            offering=offering, keys=tuple(sorted(keys)), source_hash=source_hash, prices=prices, default=default
        )
    ]


def _prices(content: Catalogue) -> tuple[PlanPrices, ...]:
    newest = {plan.plan: plan for plan in sorted(content.plans, key=lambda plan: plan.version)}
    return tuple(
        PlanPrices(
            plan=name,
            trial_days=plan.trial_days,
            prices=tuple(price.model_copy(update={"provider_prices": {}}) for price in plan.prices),
            overage=tuple(price.model_copy(update={"provider_prices": {}}) for price in plan.overage),
        )
        for name, plan in sorted(newest.items())
        if plan.prices
    )
