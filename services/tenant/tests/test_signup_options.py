"""Options of a sign-up, as their owners publish them."""

import pytest
from paybill_contracts.catalogue import Catalogue, CataloguePublished, PlanVersion
from paybill_contracts.placement import Preset
from paybill_contracts.providers import ProvidersConfigured
from paybill_contracts.provisioner import Blueprint, BlueprintPublished
from paybill_tenant.domain.signup_options import (
    OptionsNotPublishedError,
    SignupOptions,
    UnknownPaymentError,
    UnknownPlanError,
    UnknownRegionError,
    check_payment,
    check_plan_and_region,
    evolve,
    on_blueprint_published,
    on_catalogue_published,
    on_providers_configured,
)

PLANS = SignupOptions(id="plans", keys=("pro", "starter"), source_hash="a" * 64)
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


def blueprint(*regions: str) -> BlueprintPublished:
    return BlueprintPublished(
        blueprint="main",
        content=Blueprint(name="main", regions=regions, tiers=(), tables=()),
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
    fact = ProvidersConfigured(
        providers="providers", names=("manual", "stripe"), default="stripe", content_hash="e" * 64
    )
    (noted,) = on_providers_configured(None, fact)
    payments = evolve(None, noted)

    assert payments == SignupOptions(id="payments", keys=("manual", "stripe"), source_hash="e" * 64)
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
