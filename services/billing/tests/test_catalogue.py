"""What is published stays as it was, and every price leads to the plan version that it sells."""

from importlib.resources import files

import pytest
from billing_samples import CONTENT, PRO_1, PRO_2, published
from paybill_billing.domain import catalogue
from paybill_billing.domain.catalogue import PriceSeen, PublishedPlanEditedError, UnknownPlanError, UnknownPriceError
from paybill_contracts.catalogue import Catalogue as Content
from paybill_contracts.catalogue import Meter, Window
from paybill_contracts.event import digest
from paybill_contracts.plans_file import read_plans


def test_publishing_the_same_catalogue_again_says_nothing():
    assert catalogue.publish(published(CONTENT), CONTENT) == []


def test_the_first_publication_holds_the_whole_content_and_its_hash():
    (said,) = catalogue.publish(None, CONTENT)

    assert said.content == CONTENT
    assert said.content_hash == digest(CONTENT)


def test_an_edit_of_a_published_version_is_refused_and_names_what_differs():
    edited = Content(product="shop", plans=(PRO_1.model_copy(update={"grace_s": 1}),))

    with pytest.raises(PublishedPlanEditedError, match=r"pro version 1 .* differs in grace_s.* version 3"):
        catalogue.publish(published(CONTENT), edited)


def test_a_version_taken_off_sale_can_neither_be_bought_nor_come_back_edited():
    without = Content(product="shop", plans=(PRO_2,))
    state = published(CONTENT, without)

    assert catalogue.on_sale(state, "pro") == PRO_2
    assert catalogue.published(state, "pro", 1).plan == PRO_1
    assert catalogue.published(state, "pro", 1).catalogue_hash == digest(CONTENT)
    with pytest.raises(PublishedPlanEditedError):
        catalogue.publish(state, Content(product="shop", plans=(PRO_1.model_copy(update={"name": "New"}), PRO_2)))


def test_the_newest_version_is_on_sale():
    assert catalogue.on_sale(published(CONTENT), "pro") == PRO_2


def test_an_unknown_plan_is_refused_with_the_plans_there_are():
    with pytest.raises(UnknownPlanError, match="no plan gold; on sale are: basic, pro"):
        catalogue.on_sale(published(CONTENT), "gold")
    with pytest.raises(UnknownPlanError, match="pro version 9"):
        catalogue.published(published(CONTENT), "pro", 9)


@pytest.mark.parametrize(
    ("price", "sold"),
    [
        (PriceSeen("price_pro2", None, None, None), PRO_2),
        (PriceSeen("price_pro2", "pro_v1_month_eur", "pro", 1), PRO_2),
        (PriceSeen("price_x", "pro_v2_month_eur", "pro", 1), PRO_1),
        (PriceSeen("price_x", "pro_v1_month_eur", None, None), PRO_1),
    ],
    ids=["catalogue's id", "catalogue's id first", "metadata before lookup key", "lookup key"],
)
def test_a_price_leads_to_its_plan_version(price, sold):
    assert catalogue.sold_at(published(CONTENT), "stripe", price).plan == sold


def test_a_price_of_something_else_is_refused():
    with pytest.raises(UnknownPriceError, match="price_x at stripe"):
        catalogue.sold_at(published(CONTENT), "stripe", PriceSeen("price_x", None, None, None))


def test_the_catalogue_that_comes_with_billing_is_good():
    text = files("paybill_billing").joinpath("plans.yaml").read_text(encoding="utf-8")

    content = read_plans(text, "plans.yaml").content

    assert content.product == "paybill-demo"
    assert [(plan.plan, plan.placement.value) for plan in content.plans] == [
        ("starter", "pooled"),
        ("team", "bridge"),
        ("business", "silo"),
    ]
    assert [(meter.meter, meter.window) for meter in content.meters] == [("calls", Window.MONTH)]


def test_a_meter_stays_known_when_the_plans_that_name_it_are_off_sale_and_an_undeclared_one_is_a_sum_by_month():
    daily = Meter(meter="calls", window=Window.DAY)
    state = published(CONTENT.model_copy(update={"meters": (daily,)}), Content(product="shop", plans=(PRO_2,)))

    assert catalogue.meter(state, "calls") == daily
    assert catalogue.meter(state, "disk") == Meter(meter="disk", window=Window.MONTH)
