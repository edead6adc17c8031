"""Rules of the catalogue: immutable plan versions, the plan of a price, buildable tiers and differences."""

from importlib.resources import files

import pytest
from billing_samples import BASIC, CONTENT, PRO_1, PRO_2, published
from paybill_billing.catalogue.domain import catalogue, differences, tiers
from paybill_billing.catalogue.domain.catalogue import (
    CatalogueRefusedError,
    PlanNotOnSaleError,
    UnknownPlanError,
    UnknownPriceError,
)
from paybill_billing.providers.port.snapshots import PriceSnapshot
from paybill_contracts.blueprints import Blueprint, BlueprintPublished, TierBlueprint
from paybill_contracts.catalogue import BooleanFeature, LimitFeature, Meter, Window
from paybill_contracts.catalogue import Catalogue as Content
from paybill_contracts.event import digest
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset, placement_of
from paybill_definitions.plans_file import read_plans


def test_publishing_the_same_catalogue_again_emits_no_event():
    assert catalogue.publish(published(CONTENT), CONTENT) == []


def test_the_first_publication_contains_the_content_and_its_hash():
    (event,) = catalogue.publish(None, CONTENT)

    assert event.content == CONTENT
    assert event.content_hash == digest(CONTENT)


def test_an_edit_of_a_published_version_is_refused_and_the_error_names_the_field():
    edited = Content(product="shop", plans=(PRO_1.model_copy(update={"grace_s": 1}),))

    with pytest.raises(CatalogueRefusedError, match=r"pro@1 .* differs in grace_s.* version 3"):
        catalogue.publish(published(CONTENT), edited)


def test_a_retired_version_cannot_be_bought_and_cannot_return_edited():
    without = Content(product="shop", plans=(PRO_2,))
    state = published(CONTENT, without)

    assert catalogue.on_sale(state, "pro") == PRO_2
    assert catalogue.published(state, "pro", 1).plan == PRO_1
    assert catalogue.published(state, "pro", 1).catalogue_hash == digest(CONTENT)
    with pytest.raises(CatalogueRefusedError):
        catalogue.publish(state, Content(product="shop", plans=(PRO_1.model_copy(update={"name": "New"}), PRO_2)))


def test_the_newest_version_is_on_sale():
    assert catalogue.on_sale(published(CONTENT), "pro") == PRO_2


def test_a_new_checkout_sells_the_version_of_the_sign_up_or_the_newest_one_after_its_retirement():
    without = published(CONTENT, Content(product="shop", plans=(PRO_2,)))

    assert catalogue.sold_now(published(CONTENT), "pro", 1) == PRO_1
    assert catalogue.sold_now(without, "pro", 1) == PRO_2
    with pytest.raises(PlanNotOnSaleError, match="basic is retired and cannot be bought; plans on sale: pro"):
        catalogue.sold_now(without, "basic", 1)


def test_a_plan_of_a_size_is_on_sale_in_its_newest_version():
    state = published(CONTENT)

    assert catalogue.plan_of_size(state, PRO_2.tier, PRO_2.placement) == catalogue.on_sale(state, "pro").plan
    assert catalogue.plan_of_size(state, "gold", PRO_2.placement) is None


def test_an_unknown_plan_is_refused_and_the_error_lists_the_plans_on_sale():
    with pytest.raises(UnknownPlanError, match="no plan gold; plans on sale: basic, pro"):
        catalogue.on_sale(published(CONTENT), "gold")
    with pytest.raises(UnknownPlanError, match="pro version 9"):
        catalogue.published(published(CONTENT), "pro", 9)


@pytest.mark.parametrize(
    ("price", "sold"),
    [
        (PriceSnapshot("price_pro2", None, None, None), PRO_2),
        (PriceSnapshot("price_pro2", "pro_v1_month_eur", "pro", 1), PRO_2),
        (PriceSnapshot("price_x", "pro_v2_month_eur", "pro", 1), PRO_1),
        (PriceSnapshot("price_x", "pro_v1_month_eur", None, None), PRO_1),
    ],
    ids=["catalogue's id", "catalogue's id first", "metadata before lookup key", "lookup key"],
)
def test_a_price_is_resolved_to_its_plan_version(price, sold):
    assert catalogue.plan_of_price(published(CONTENT), "stripe", price).plan == sold


def test_a_price_of_no_plan_is_refused():
    with pytest.raises(UnknownPriceError, match="price_x at stripe"):
        catalogue.plan_of_price(published(CONTENT), "stripe", PriceSnapshot("price_x", None, None, None))


def test_the_packaged_catalogue_is_valid():
    text = files("paybill_billing").joinpath("plans.yaml").read_text(encoding="utf-8")

    content = read_plans(text, "plans.yaml").content

    assert content.product == "paybill-demo"
    assert [(plan.plan, plan.placement.value) for plan in content.plans] == [
        ("starter", "pooled"),
        ("team", "bridge"),
        ("business", "silo"),
    ]
    assert [(meter.meter, meter.window) for meter in content.meters] == [("calls", Window.MONTH)]


def test_a_meter_of_retired_plans_stays_known_and_an_undeclared_one_is_summed_by_month():
    daily = Meter(meter="calls", window=Window.DAY)
    state = published(CONTENT.model_copy(update={"meters": (daily,)}), Content(product="shop", plans=(PRO_2,)))

    assert catalogue.meter(state, "calls") == daily
    assert catalogue.meter(state, "disk") == Meter(meter="disk", window=Window.MONTH)


def test_a_meter_of_published_plans_can_change_only_its_lateness_and_provider_meters():
    daily = Meter(meter="calls", window=Window.DAY)
    later = Meter(meter="calls", lateness_s=60, provider_meters={"stripe": "calls"})
    unused = Meter(meter="disk")
    state = published(CONTENT.model_copy(update={"meters": (unused,)}))

    with pytest.raises(CatalogueRefusedError, match="the meter calls differs in window"):
        catalogue.publish(state, CONTENT.model_copy(update={"meters": (daily,)}))
    assert catalogue.publish(state, CONTENT.model_copy(update={"meters": (later,)}))
    assert catalogue.publish(state, CONTENT.model_copy(update={"meters": (Meter(meter="disk", window=Window.DAY),)}))
    assert catalogue.meters(state) == {"calls", "disk"}


def test_a_tier_that_cannot_be_built_is_refused_and_all_objections_are_reported():
    edited = CONTENT.model_copy(update={"plans": (BASIC, PRO_1.model_copy(update={"grace_s": 1, "name": "New"}))})
    only_pro = {("pro", Preset.POOLED)}

    found = catalogue.objections(published(CONTENT), edited, only_pro)

    assert [(each.name, each.field) for each in found] == [("pro@1", "name"), ("basic@1", "tier")]
    assert "it has pro (pooled)" in found[1].reason
    with pytest.raises(CatalogueRefusedError):
        catalogue.publish(None, CONTENT, only_pro)
    assert catalogue.publish(None, CONTENT, {*only_pro, ("basic", Preset.POOLED)})


def test_the_tiers_of_a_blueprint_are_recorded_once():
    tier = TierBlueprint(
        tier="pro", placement=Preset.SILO, layers=placement_of(Preset.SILO), cloud="local", resources=()
    )
    blueprint = Blueprint(
        name="x", version=1, regions=(), cells=(), tiers=(tier, tier.model_copy(update={"cloud": "aws"})), tables=()
    )
    fact = BlueprintPublished(blueprint="main", content=blueprint, content_hash="c" * 64)

    (event,) = tiers.on_blueprint_published(None, fact)
    recorded = tiers.evolve(None, event)

    assert recorded.buildable == {("pro", Preset.SILO)}
    assert tiers.on_blueprint_published(recorded, fact) == []


def test_a_difference_contains_versions_features_prices_terms_and_meters():
    features = (
        LimitFeature(kind="limit", key="projects", limit=99),
        BooleanFeature(kind="boolean", key="sso", enabled=True),
    )
    expensive = PRO_2.prices[0].model_copy(update={"amount": Money(minor=3000, currency="EUR"), "provider_prices": {}})
    pro_3 = PRO_2.model_copy(update={"version": 3, "features": features, "prices": (expensive,), "grace_s": 60})
    meter = Meter(meter="calls")

    found = differences.between(published(CONTENT), Content(product="shop", plans=(PRO_2, pro_3), meters=(meter,)))

    assert (found.added, found.retired) == (("pro@3",), ("basic@1", "pro@1"))
    (version,) = found.versions
    assert (version.before, version.after) == ("pro@2", "pro@3")
    assert [(term.field, term.before, term.after) for term in version.terms] == [("grace_s", "604800", "60")]
    assert [(each.before, each.after) for each in version.features] == [
        (PRO_2.features[0], features[0]),
        (PRO_2.features[1], None),
        (None, features[1]),
    ]
    assert [(each.before.minor, each.after.minor) for each in version.prices] == [(2000, 3000)]
    assert [(each.before, each.after) for each in found.meters] == [(None, meter)]


def test_a_first_catalogue_is_all_new_and_a_returning_version_is_compared_with_its_predecessor():
    first = differences.between(None, CONTENT)
    back = differences.between(published(CONTENT, Content(product="shop", plans=(PRO_1,))), CONTENT)

    assert first.added == ("basic@1", "pro@1", "pro@2")
    assert [version.before for version in first.versions] == [None, None, "pro@1"]
    assert back.added == ("basic@1", "pro@2")
    assert not back.retired
