"""What may be asked for, as its owners publish it."""

import pytest
from paybill_contracts.catalogue import Catalogue, CataloguePublished, PlanVersion
from paybill_contracts.placement import Preset
from paybill_contracts.providers import ProvidersConfigured
from paybill_contracts.provisioner import Blueprint, BlueprintPublished
from paybill_tenant.domain.offerings import (
    Offering,
    OfferingsNotPublishedError,
    UnknownPaymentError,
    UnknownPlanError,
    UnknownRegionError,
    check_offered,
    check_payment,
    evolve,
    on_blueprint_published,
    on_catalogue_published,
    on_providers_configured,
)

PLANS = Offering(id="plans", keys=("pro", "starter"), source_hash="a" * 64)
REGIONS = Offering(id="regions", keys=("eu-1",), source_hash="b" * 64)


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


def blueprint(*regions: str) -> BlueprintPublished:
    return BlueprintPublished(
        blueprint="main",
        content=Blueprint(name="main", regions=regions, tiers=(), tables=()),
        content_hash="d" * 64,
    )


def test_a_plan_of_two_versions_is_offered_once() -> None:
    (noted,) = on_catalogue_published(None, catalogue(version("starter", 1), version("pro", 1), version("pro", 2)))

    assert evolve(None, noted) == Offering(id="plans", keys=("pro", "starter"), source_hash="c" * 64)


def test_the_same_catalogue_published_twice_is_no_news() -> None:
    (noted,) = on_catalogue_published(None, catalogue(version("pro", 1)))

    assert on_catalogue_published(evolve(None, noted), catalogue(version("pro", 1))) == []


def test_another_catalogue_takes_the_place_of_the_one_before() -> None:
    (noted,) = on_catalogue_published(PLANS, catalogue(version("team", 1)))

    assert evolve(PLANS, noted).keys == ("team",)


def test_regions_come_from_the_blueprint() -> None:
    (noted,) = on_blueprint_published(None, blueprint("us-1", "eu-1"))
    regions = evolve(None, noted)

    assert regions == Offering(id="regions", keys=("eu-1", "us-1"), source_hash="d" * 64)
    assert on_blueprint_published(regions, blueprint("us-1", "eu-1")) == []


def test_ways_to_pay_are_the_providers_that_billing_has() -> None:
    fact = ProvidersConfigured(
        providers="providers", names=("manual", "stripe"), default="stripe", content_hash="e" * 64
    )
    (noted,) = on_providers_configured(None, fact)
    payments = evolve(None, noted)

    assert payments == Offering(id="payments", keys=("manual", "stripe"), source_hash="e" * 64)
    assert on_providers_configured(payments, fact) == []
    check_payment(payments, "manual")
    with pytest.raises(UnknownPaymentError, match="choose one of manual, stripe"):
        check_payment(payments, "barter")


def test_who_does_not_say_how_to_pay_need_not_wait_for_what_billing_has() -> None:
    check_payment(None, None)
    with pytest.raises(OfferingsNotPublishedError):
        check_payment(None, "manual")


def test_what_is_offered_passes() -> None:
    check_offered(PLANS, REGIONS, plan="pro", region="eu-1")


@pytest.mark.parametrize(
    ("plans", "regions", "plan", "region", "error", "code"),
    [
        (None, REGIONS, "pro", "eu-1", OfferingsNotPublishedError, "offerings_not_published"),
        (PLANS, None, "pro", "eu-1", OfferingsNotPublishedError, "offerings_not_published"),
        (PLANS, REGIONS, "gold", "eu-1", UnknownPlanError, "unknown_plan"),
        (PLANS, REGIONS, "pro", "moon-1", UnknownRegionError, "unknown_region"),
    ],
)
def test_what_is_not_offered_is_refused_with_a_stable_code(plans, regions, plan, region, error, code) -> None:
    with pytest.raises(error) as refusal:
        check_offered(plans, regions, plan=plan, region=region)

    assert refusal.value.code == code
