"""Overage prices in plans.yaml are checked by the rules of prices, and sold with a price of the plan."""

import pytest
from paybill_contracts.catalogue import Catalogue, Interval
from paybill_contracts.event import digest
from paybill_contracts.money import Money
from paybill_definitions.plans_file import PlansError, read_plans

GOOD = """\
product: shop
meters:
  - {meter: calls, provider_meters: {stripe: api_calls}}
plans:
  - plan: basic
    version: 1
    name: Basic
    tier: basic
    placement: pooled
    grace: 7d
    retention: 30d
    features:
      - key: calls
        kind: metered
        meter: calls
        included: 1000
        overage: [{minor: 2, currency: EUR, interval: month}]
    prices:
      - {minor: 2900, currency: EUR, interval: month}
"""
OVERAGE = "{minor: 2, currency: EUR, interval: month}"


def errors_in(text):
    with pytest.raises(PlansError) as caught:
        read_plans(text, "plans.yaml")
    return str(caught.value).splitlines()


def test_a_metered_feature_has_an_overage_price_by_unit_or_by_block():
    by_unit, by_block = (
        read_plans(GOOD.replace("minor: 2,", price), "plans.yaml").content
        for price in ("minor: 2,", "minor: 200, per: 1000, provider_prices: {stripe: price_1},")
    )

    (unit,), (block,) = by_unit.plans[0].overage, by_block.plans[0].overage
    assert (unit.feature, unit.amount, unit.interval, unit.units) == (
        "calls",
        Money(minor=2, currency="EUR"),
        Interval.MONTH,
        1,
    )
    assert (block.amount.minor, block.units, block.provider_prices) == (200, 1000, {"stripe": "price_1"})
    assert Catalogue.model_validate_json(by_block.model_dump_json()) == by_block


def test_a_catalogue_without_overage_prices_has_the_hash_that_it_had_before_they_existed():
    content = read_plans(GOOD.replace(f"[{OVERAGE}]", "[]"), "plans.yaml").content

    written = content.model_dump(mode="json")
    assert "overage" not in written["plans"][0]
    assert digest(content) == digest(written) == "016a425782597c4a4c5e0cf1249e64b5ba15446036e872a8f7ec045c7173fcb4"


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        ("minor: 2, currency: ZZZ, interval: month", "ZZZ is no currency of ISO 4217"),
        ("minor: 2, currency: ISK, interval: month", "Stripe counts ISK in hundredths"),
        ("minor: 12, currency: KWD, interval: month", "Stripe charges KWD in steps of ten minor units: write 10"),
        ("minor: 2, currency: USD, interval: month", "the monthly overage price in USD of calls is never sold"),
        ("minor: 2, currency: USD, interval: month", "calls has an overage price, but none in EUR per month"),
        (
            f"minor: 2, currency: EUR, interval: month}}, {OVERAGE[:-1]}",
            "overage price in EUR of calls is written twice",
        ),
        (
            "minor: 2, currency: EUR, interval: month, provider_prices: {acmepay: p1}",
            "the meter of calls has no provider_meters for acmepay",
        ),
    ],
)
def test_an_overage_price_that_cannot_be_sold_is_an_error_with_its_line(price, reason):
    found = errors_in(GOOD.replace(OVERAGE, f"{{{price}}}"))

    assert all(line.startswith("plans.yaml:13: ") for line in found)
    assert any(reason in line for line in found)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (", provider_meters: {stripe: api_calls}", "", "has no provider_meters: its usage would not be billed"),
        ("minor: 2,", "minor: 0,", "write 1 or more"),
        ("minor: 2,", "minor: 2, per: 0,", "write 1 or more"),
        ("kind: metered", "kind: limit", "there is no such field"),
        (
            "    prices:",
            (
                "      - {key: more, kind: metered, meter: calls, included: 1, overage: [{minor: 2, currency: EUR, "
                "interval: month}]}\n    prices:"
            ),
            "calls and more would charge the same usage of calls twice",
        ),
        (
            f"[{OVERAGE}]\n    prices:\n      - {{minor: 2900, currency: EUR, interval: month",
            (
                "[{minor: 2, currency: EUR, interval: month, provider_prices: {stripe: p1}}]\n    prices:\n"
                "      - {minor: 2900, currency: EUR, interval: month, provider_prices: {stripe: p1}"
            ),
            "stripe p1 is the price of two plans",
        ),
    ],
)
def test_an_inconsistent_overage_price_is_refused(old, new, reason):
    assert any(reason in line for line in errors_in(GOOD.replace(old, new)))


def test_a_unit_of_usage_may_cost_less_than_the_minimum_of_a_charge():
    read_plans(GOOD.replace("minor: 2,", "minor: 1,"), "plans.yaml")
