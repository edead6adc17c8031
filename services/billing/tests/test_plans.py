"""plans.yaml is checked like code: every flaw by file, line and reason."""

from importlib.resources import files

import pytest
from paybill_billing.domain.plans import PlansError, read_plans
from paybill_contracts.placement import Preset

GOOD = """\
product: shop
plans:
  - plan: basic
    version: 1
    name: Basic
    tier: basic
    placement: pooled
    grace: 7d
    retention: 30d
    features:
      - {key: projects, kind: limit, limit: 5}
      - {key: calls, kind: metered, meter: calls, included: 10}
    prices:
      - {minor: 2900, currency: EUR, interval: month}
"""


def flaws(text):
    with pytest.raises(PlansError) as caught:
        read_plans(text, "plans.yaml")
    return str(caught.value).splitlines()


def test_a_good_file_becomes_a_catalogue_and_tells_where_each_plan_stands():
    plans = read_plans(GOOD, "plans.yaml")

    (plan,) = plans.content.plans
    assert (plan.grace_s, plan.placement, plan.prices[0].amount.minor) == (604_800, Preset.POOLED, 2900)
    assert plans.lines == {("basic", 1): 3}


def test_the_catalogue_that_comes_with_billing_is_good():
    text = files("paybill_billing").joinpath("plans.yaml").read_text(encoding="utf-8")

    content = read_plans(text, "plans.yaml").content

    assert content.product == "paybill-demo"
    assert [(plan.plan, plan.placement.value) for plan in content.plans] == [
        ("starter", "pooled"),
        ("team", "bridge"),
        ("business", "silo"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("currency: EUR, ", "", "plans.yaml:14: plans.0.prices.0.currency: Field required"),
        ("kind: limit", "kind: magic", "plans.yaml:11: plans.0.features.0: Input tag 'magic'"),
        ("minor: 2900", "minor: 29.00", "plans.yaml:14: plans.0.prices.0.minor: Input should be a valid integer"),
        ("placement: pooled", "placement: moon", "plans.yaml:7: plans.0.placement: Input should be 'pooled'"),
        ("grace: 7d", "grace: 7 days", "plans.yaml:8: plans.0.grace: Value error, write a duration as"),
        ("grace: 7d", "grace: 9999d", "plans.yaml:8: plans.0.grace: Input should be less than"),
        ("tier: basic", "tear: basic", "plans.yaml:6: plans.0.tear: Extra inputs are not permitted"),
        ("tier: basic", "tier: basic\n    tier: two", "plans.yaml:7: tier is written twice, first in line 6"),
        ("key: calls", "key: projects", "plans.yaml:12: the feature projects is written twice"),
        ("version: 1", "version: 0", "plans.yaml:4: plans.0.version: Input should be greater"),
        ("product: shop", "product: [", "no YAML"),
        ("    retention: 30d", "    trial: 12h\n    retention: 30d", "plans.yaml:9: a trial is in whole days"),
    ],
)
def test_a_flaw_is_named_by_file_line_and_reason(old, new, said):
    assert any(said in flaw for flaw in flaws(GOOD.replace(old, new)))


def test_every_flaw_is_named_at_once():
    found = flaws(GOOD.replace("version: 1", "version: 0").replace("currency: EUR", "currency: euro"))

    assert [flaw.split(":")[1] for flaw in found] == ["4", "14"]


def test_a_plan_version_or_a_price_that_is_there_twice_is_refused():
    plan = GOOD.split("plans:\n")[1]
    two = GOOD + plan
    price = "      - {minor: 1, currency: EUR, interval: month}\n"
    shared = "provider_prices: {stripe: price_1}"

    assert "plans.yaml:15: basic version 1 is written twice" in flaws(two)
    assert "plans.yaml:15: the monthly price in EUR is written twice" in flaws(GOOD + price)
    assert "plans.yaml:26: stripe price_1 is the price of two plans" in flaws(
        two.replace("interval: month", f"interval: month, {shared}").replace("version: 1", "version: 2", 1)
    )


@pytest.mark.parametrize("text", ["", "[]", "7", "- a", "? [a]\n: b", "\x00"])
def test_what_is_no_catalogue_at_all_is_refused(text):
    assert flaws(text)


def test_aliases_that_multiply_are_refused():
    bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n"
        for before, name in zip("abcdefg", "bcdefgh", strict=True)
    )

    assert "aliases multiply" in flaws(bomb)[0]


def test_a_file_of_more_than_a_megabyte_is_refused():
    assert "larger than" in flaws("#" * (1024 * 1024 + 1))[0]
