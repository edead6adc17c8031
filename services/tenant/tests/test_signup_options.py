"""Options of a sign-up, as their owners publish them."""

import pytest
from paybill_contracts.blueprints import Blueprint, BlueprintPublished
from paybill_contracts.catalogue import Catalogue, CataloguePublished, Interval, OveragePrice, PlanVersion, Price
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset
from paybill_contracts.providers import ProvidersConfigured
from paybill_contracts.purchases import FIRST_PRICE, PlanPrices, PurchaseTerms
from paybill_tenant.domain.signup_options import (
    NoCouponsError,
    NoExistingCustomersError,
    NoSuchPriceError,
    OptionsNotPublishedError,
    QuantityOutOfBoundsError,
    SignupOptions,
    TermsOfCustomerError,
    UnknownPaymentError,
    UnknownPlanError,
    UnknownRegionError,
    check_payment,
    check_plan_and_region,
    check_request,
    evolve,
    on_blueprint_published,
    on_catalogue_published,
    on_providers_configured,
    quote,
)

PLANS = SignupOptions(id="plans", keys=("pro", "starter"), source_hash="a" * 64)
ABOVE_STRIPES_LIMIT = PurchaseTerms(quantity=34_483)
REGIONS = SignupOptions(id="regions", keys=("eu-1",), source_hash="b" * 64)


def version(plan: str, number: int) -> PlanVersion:
    return PlanVersion(
        plan=plan,
        version=number,
        name=plan,
        tier="standard",
        placement=Preset.POOLED,
        trial_days=0,
        grace_s=0,
        retention_s=0,
        features=(),
        prices=(),
    )


def catalogue(*plans: PlanVersion, content_hash: str = "c" * 64) -> CataloguePublished:
    return CataloguePublished(
        catalogue="main", content=Catalogue(product="app", plans=plans), content_hash=content_hash
    )


def configured(*names: str, default: str) -> ProvidersConfigured:
    return ProvidersConfigured(providers="providers", names=names, default=default, content_hash="e" * 64)


def blueprint(*regions: str) -> BlueprintPublished:
    return BlueprintPublished(
        blueprint="main",
        content=Blueprint(name="main", version=1, regions=regions, cells=(), tiers=(), tables=()),
        content_hash="d" * 64,
    )


def test_a_plan_with_two_versions_is_one_option() -> None:
    (noted,) = on_catalogue_published(None, catalogue(version("starter", 1), version("pro", 1), version("pro", 2)))

    assert evolve(None, noted) == SignupOptions(id="plans", keys=("pro", "starter"), source_hash="c" * 64)


def test_the_same_catalogue_published_twice_records_nothing() -> None:
    (noted,) = on_catalogue_published(None, catalogue(version("pro", 1)))

    assert on_catalogue_published(evolve(None, noted), catalogue(version("pro", 1))) == []


def test_another_catalogue_replaces_the_previous_one() -> None:
    (noted,) = on_catalogue_published(PLANS, catalogue(version("team", 1)))

    assert evolve(PLANS, noted).keys == ("team",)


def test_regions_come_from_the_blueprint() -> None:
    (noted,) = on_blueprint_published(None, blueprint("us-1", "eu-1"))
    regions = evolve(None, noted)

    assert regions == SignupOptions(id="regions", keys=("eu-1", "us-1"), source_hash="d" * 64)
    assert on_blueprint_published(regions, blueprint("us-1", "eu-1")) == []


def test_payment_options_are_the_providers_of_billing() -> None:
    fact = configured("manual", "stripe", default="stripe")
    (noted,) = on_providers_configured(None, fact)
    payments = evolve(None, noted)

    assert payments == SignupOptions(id="payments", keys=("manual", "stripe"), source_hash="e" * 64, default="stripe")
    assert on_providers_configured(payments, fact) == []
    check_payment(payments, "manual")
    with pytest.raises(UnknownPaymentError, match="choose one of manual, stripe"):
        check_payment(payments, "barter")


def test_a_request_without_a_provider_does_not_depend_on_published_providers() -> None:
    check_payment(None, None)
    with pytest.raises(OptionsNotPublishedError):
        check_payment(None, "manual")


def test_published_options_are_accepted() -> None:
    check_plan_and_region(PLANS, REGIONS, plan="pro", region="eu-1")


@pytest.mark.parametrize(
    ("plans", "regions", "plan", "region", "error", "code"),
    [
        (None, REGIONS, "pro", "eu-1", OptionsNotPublishedError, "offerings_not_published"),
        (PLANS, None, "pro", "eu-1", OptionsNotPublishedError, "offerings_not_published"),
        (PLANS, REGIONS, "gold", "eu-1", UnknownPlanError, "unknown_plan"),
        (PLANS, REGIONS, "pro", "moon-1", UnknownRegionError, "unknown_region"),
    ],
)
def test_unpublished_options_are_refused_with_a_stable_code(plans, regions, plan, region, error, code) -> None:
    with pytest.raises(error) as refusal:
        check_plan_and_region(plans, regions, plan=plan, region=region)

    assert refusal.value.code == code


def price(minor: int, currency: str, interval: Interval) -> Price:
    return Price(amount=Money(minor=minor, currency=currency), interval=interval, provider_prices={})


PRICES = (
    price(2900, "EUR", Interval.MONTH),
    price(29_000, "EUR", Interval.YEAR),
    price(3100, "USD", Interval.MONTH),
    price(10**12, "JPY", Interval.MONTH),
)
PRICED = SignupOptions(
    id="plans", keys=("pro",), source_hash="a" * 64, prices=(PlanPrices(plan="pro", trial_days=14, prices=PRICES),)
)


def test_the_newest_version_of_a_plan_has_the_prices_of_the_sign_up() -> None:
    provided = PRICES[0].model_copy(update={"provider_prices": {"stripe": "price_1"}})
    old = version("pro", 1).model_copy(update={"prices": PRICES})
    new = version("pro", 2).model_copy(update={"prices": (provided,), "trial_days": 7})
    (noted,) = on_catalogue_published(None, catalogue(new, old))

    assert noted.prices == (PlanPrices(plan="pro", trial_days=7, prices=(PRICES[0],)),)


def test_options_of_an_older_fact_get_their_prices_from_the_same_catalogue() -> None:
    published = catalogue(version("pro", 1).model_copy(update={"prices": PRICES}))
    older = SignupOptions(id="plans", keys=("pro",), source_hash=published.content_hash)
    (noted,) = on_catalogue_published(older, published)

    assert noted.prices[0].prices == PRICES


@pytest.mark.parametrize(
    ("terms", "index", "total"),
    [
        (FIRST_PRICE, 0, 2900),
        (PurchaseTerms(interval=Interval.YEAR, quantity=3), 1, 87_000),
        (PurchaseTerms(currency="USD", coupon="SPRING"), 2, 3100),
    ],
)
def test_a_quote_has_the_first_price_with_the_interval_and_currency(terms, index, total) -> None:
    found = quote(PRICED, "pro", terms, None)

    assert (found.price, found.total.minor, found.trial_days) == (PRICES[index], total, 14)


def test_a_price_that_the_plan_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(NoSuchPriceError, match=r"29\.00 EUR per month, 290\.00 EUR per year, 31\.00 USD per month"):
        quote(PRICED, "pro", PurchaseTerms(interval=Interval.YEAR, currency="USD"), None)


def test_a_total_that_cannot_be_charged_is_refused() -> None:
    with pytest.raises(QuantityOutOfBoundsError):
        quote(PRICED, "pro", PurchaseTerms(currency="JPY", quantity=1001), None)


def test_a_total_above_the_maximum_charge_of_stripe_is_refused_unless_another_provider_is_named() -> None:
    with pytest.raises(QuantityOutOfBoundsError, match=r"34483 at 29\.00 EUR is above .* 999999\.99 EUR; choose fewer"):
        quote(PRICED, "pro", ABOVE_STRIPES_LIMIT, None)
    assert quote(PRICED, "pro", PurchaseTerms(quantity=34_482), None) is not None
    assert quote(PRICED, "pro", ABOVE_STRIPES_LIMIT, None, "manual") is not None


def test_an_existing_customer_keeps_the_terms_that_it_has() -> None:
    assert quote(PRICED, "pro", FIRST_PRICE, "cus_1") is None
    with pytest.raises(TermsOfCustomerError):
        quote(PRICED, "pro", PurchaseTerms(quantity=2), "cus_1")


def test_a_coupon_of_a_sign_up_that_is_paid_by_invoice_is_refused() -> None:
    payments = SignupOptions(id="payments", keys=("manual", "stripe"), source_hash="a" * 64)
    options = {
        "slug": "acme",
        "plan": "pro",
        "region": "eu-1",
        "payments": payments,
        "terms": PurchaseTerms(coupon="X"),
    }

    with pytest.raises(NoCouponsError):
        check_request(PRICED, REGIONS, payment="manual", **options)
    assert check_request(PRICED, REGIONS, payment="stripe", **options) is not None
    assert check_request(PRICED, REGIONS, payment=None, **options) is not None


@pytest.mark.parametrize("payment", [None, "manual"])
def test_what_payment_by_invoice_does_not_have_is_refused_as_the_default_provider_too(payment: str | None) -> None:
    (noted,) = on_providers_configured(None, configured("manual", "stripe", default="manual"))
    payments = evolve(None, noted)
    options = {"slug": "acme", "plan": "pro", "region": "eu-1", "payments": payments}

    with pytest.raises(NoCouponsError):
        check_request(PRICED, REGIONS, payment=payment, terms=PurchaseTerms(coupon="X"), **options)
    with pytest.raises(NoExistingCustomersError):
        check_request(PRICED, REGIONS, payment=payment, customer="cus_1", **options)
    assert check_request(PRICED, REGIONS, payment="stripe", terms=PurchaseTerms(coupon="X"), **options) is not None
    assert check_request(PRICED, REGIONS, payment=payment, **options) is not None
    assert check_request(PRICED, REGIONS, payment=payment, terms=ABOVE_STRIPES_LIMIT, **options) is not None


def test_another_default_provider_is_recorded_with_the_same_list() -> None:
    known = SignupOptions(id="payments", keys=("manual", "stripe"), source_hash="e" * 64)
    (noted,) = on_providers_configured(known, configured("manual", "stripe", default="stripe"))

    assert noted.default == "stripe"
    assert on_providers_configured(evolve(known, noted), configured("manual", "stripe", default="stripe")) == []


def test_a_quote_has_the_overage_prices_that_are_sold_with_its_price() -> None:
    monthly = OveragePrice(feature="calls", amount=Money(minor=2, currency="EUR"), interval=Interval.MONTH, units=1000)
    yearly = monthly.model_copy(update={"interval": Interval.YEAR})
    provided = monthly.model_copy(update={"provider_prices": {"stripe": "price_2"}})
    plan = version("pro", 1).model_copy(update={"prices": PRICES, "overage": (provided, yearly)})
    (noted,) = on_catalogue_published(None, catalogue(plan))

    assert quote(evolve(None, noted), "pro", FIRST_PRICE, None).overage == (monthly,)
    assert quote(evolve(None, noted), "pro", PurchaseTerms(currency="USD"), None).overage == ()
