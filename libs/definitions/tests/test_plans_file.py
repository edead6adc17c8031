"""Errors in plans.yaml are reported by file, line and reason."""

import pytest
from paybill_contracts.catalogue import Aggregation, Meter, Window
from paybill_contracts.placement import Preset
from paybill_definitions.plans_file import CatalogueDiagnostic, PlansError, read_plans, read_tiers, unknown_tiers
from paybill_definitions.yaml_lines import MAX_DIAGNOSTICS

GOOD = """\
product: shop
meters:
  - {meter: calls}
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


def errors_in(text):
    with pytest.raises(PlansError) as caught:
        read_plans(text, "plans.yaml")
    return str(caught.value).splitlines()


def test_a_valid_file_becomes_a_catalogue_with_the_line_of_each_plan():
    plans = read_plans(GOOD, "plans.yaml")

    (plan,) = plans.content.plans
    assert (plan.grace_s, plan.placement, plan.prices[0].amount.minor) == (604_800, Preset.POOLED, 2900)
    assert plans.content.meters == (Meter(meter="calls", aggregation=Aggregation.SUM, window=Window.MONTH),)
    report = plans.report(
        [CatalogueDiagnostic("basic@1", "grace_s", "too long"), CatalogueDiagnostic("calls", "", "unused")]
    )
    assert report == ["plans.yaml:3: unused", "plans.yaml:10: too long"]


def test_a_trial_needs_a_card_unless_the_plan_allows_one_without():
    trial = GOOD.replace("    grace", "    trial: 14d\n    grace")
    without_card = trial.replace("    grace", "    trial_without_card: true\n    grace")

    plans = [read_plans(text, "plans.yaml").content.plans[0] for text in (trial, without_card)]
    assert [plan.trial_without_card for plan in plans] == [False, True]


@pytest.mark.parametrize("window", ["hour", "day", "month", "period"])
def test_a_meter_counts_by_the_clock_or_by_the_billing_period(window):
    plans = read_plans(GOOD.replace("{meter: calls}", f"{{meter: calls, window: {window}}}"), "plans.yaml")

    (meter,) = plans.content.meters
    assert (meter.window, meter.by_period) == ((Window.MONTH, True) if window == "period" else (Window(window), False))


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        ("minor: 2900, currency: ZZZ", "ZZZ is no currency of ISO 4217"),
        ("minor: 29000, currency: CLF", "Stripe does not charge CLF: use another currency"),
        ("minor: 29000, currency: CUP", "Stripe does not charge CUP: use another currency"),
        ("minor: 29000, currency: VES", "Stripe does not charge VES: use another currency"),
        ("minor: 64995, currency: KWD", "Stripe charges KWD in steps of ten minor units: write 65000 (65.000 KWD)"),
        ("minor: 10, currency: USD", "0.10 USD is below Stripe's minimum charge of 0.50 USD: write at least 50, or 0"),
        ("minor: 49, currency: JPY", "49 JPY is below Stripe's minimum charge of 50 JPY: write at least 50, or 0"),
        (
            "minor: 100000000, currency: EUR",
            "1000000.00 EUR is above Stripe's maximum charge of 999999.99 EUR: write at most 99999999",
        ),
        ("minor: 500, currency: ISK", "Stripe counts ISK in hundredths, unlike ISO 4217: use another currency"),
    ],
)
def test_an_amount_that_the_provider_would_refuse_is_an_error_with_its_line(price, reason):
    assert errors_in(GOOD.replace("minor: 2900, currency: EUR", price)) == [f"plans.yaml:16: {reason}"]


def test_amounts_that_can_be_sold_are_accepted():
    for price in ("minor: 0, currency: USD", "minor: 50, currency: USD", "minor: 64990, currency: KWD"):
        read_plans(GOOD.replace("minor: 2900, currency: EUR", price), "plans.yaml")
    other = GOOD.replace("interval: month}", "interval: month, provider_prices: {acmepay: p1}}")
    read_plans(other.replace("minor: 2900, currency: EUR", "minor: 64995, currency: KWD"), "plans.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("currency: EUR, ", "", "plans.yaml:16: plans.0.prices.0.currency: it is required"),
        ("kind: limit", "kind: magic", "plans.yaml:13: plans.0.features.0: Input tag 'magic'"),
        ("limit: 5", "limt: 5", "plans.yaml:13: plans.0.features.0.limt: there is no such field"),
        ("minor: 2900", "minor: 29.00", "plans.yaml:16: plans.0.prices.0.minor: write a whole number"),
        ("placement: pooled", "placement: moon", "plans.yaml:9: plans.0.placement: write 'pooled', "),
        ("grace: 7d", "grace: 7 days", "plans.yaml:10: plans.0.grace: write a duration as"),
        ("grace: 7d", "grace: 9999d", "plans.yaml:10: plans.0.grace: write at most 365d"),
        ("tier: basic", "tear: basic", "plans.yaml:8: plans.0.tear: there is no such field"),
        ("tier: basic", "tier: basic\n    tier: two", "plans.yaml:9: tier is written twice, first in line 8"),
        ("key: calls", "key: projects", "plans.yaml:14: the feature projects is written twice"),
        ("version: 1", "version: 0", "plans.yaml:6: plans.0.version: write 1 or more"),
        ("product: shop", "product: [", "no YAML"),
        ("name: Basic", "name: 2026-13-45", "plans.yaml:7: '2026-13-45' is no value"),
        ("name: Basic", f"name: {'9' * 5000}", "plans.yaml:7: '999"),
        ("product: shop", "product: " + "[" * 2000, "nested too deeply"),
        (
            "    retention: 30d",
            "    trial_without_card: true\n    retention: 30d",
            "plans.yaml:11: the plan has no trial: write `trial: 14d`",
        ),
        ("    retention: 30d", "    trial: 12h\n    retention: 30d", "plans.yaml:11: a trial is in whole days"),
        (
            "meter: calls,",
            "meter: disk,",
            "plans.yaml:14: the meter disk is not declared under `meters`",
        ),
        ("{meter: calls}", "{meter: calls}\n  - {meter: calls}", "plans.yaml:4: the meter calls is written twice"),
        ("{meter: calls}", "{meter: calls, window: week}", "plans.yaml:3: meters.0.window: write 'hour', "),
        ("{meter: calls}", "{meter: calls, lateness: 90d}", "plans.yaml:3: meters.0.lateness: write at most 35d"),
        ("included: 10", "included: 10, quota: 9", "plans.yaml:14: the quota of calls is less than what is included"),
        (
            "{meter: calls}",
            "{meter: calls, provider_meters: {stripe: c}}\n  - {meter: hits, provider_meters: {stripe: c}}",
            "plans.yaml:4: stripe c is the meter of two meters",
        ),
    ],
)
def test_an_error_is_reported_by_file_line_and_reason(old, new, message):
    assert any(message in error for error in errors_in(GOOD.replace(old, new)))


def test_all_errors_are_reported_at_once():
    found = errors_in(GOOD.replace("version: 1", "version: 0").replace("currency: EUR", "currency: euro"))

    assert [error.split(":")[1] for error in found] == ["6", "16"]


def test_a_repeated_plan_version_or_price_is_refused():
    plan = GOOD.split("plans:\n")[1]
    two = GOOD + plan
    price = "      - {minor: 1, currency: EUR, interval: month}\n"
    shared = "provider_prices: {stripe: price_1}"

    assert "plans.yaml:17: basic version 1 is written twice" in errors_in(two)
    assert "plans.yaml:17: the monthly price in EUR is written twice" in errors_in(GOOD + price)
    assert "plans.yaml:28: stripe price_1 is the price of two plans" in errors_in(
        two.replace("interval: month", f"interval: month, {shared}").replace("version: 1", "version: 2", 1)
    )


@pytest.mark.parametrize("text", ["", "[]", "7", "- a", "? [a]\n: b", "\x00"])
def test_a_file_without_a_catalogue_is_refused(text):
    assert errors_in(text)


def test_an_alias_bomb_is_refused():
    bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n"
        for before, name in zip("abcdefg", "bcdefgh", strict=True)
    )

    assert "aliases multiply" in errors_in(bomb)[0]


def test_a_file_or_an_event_over_the_size_limit_is_refused():
    name, plan = "n" * 500, GOOD.split("plans:\n")[1]
    many = GOOD + "".join(plan.replace("Basic", name).replace("version: 1", f"version: {n}") for n in range(2, 600))

    assert "the file is larger than" in errors_in("#" * (512 * 1024 + 1))[0]
    assert "bytes as an event" in errors_in(many)[0]


def test_errors_beyond_the_display_limit_are_counted():
    many = GOOD + "".join(f"      - {{minor: 1, currency: EUR, interval: month, wrong{n}: 1}}\n" for n in range(25))

    found = errors_in(many)

    assert len(found) == MAX_DIAGNOSTICS + 1
    assert found[-1] == "plans.yaml: and 5 more"


def test_a_tier_missing_from_the_blueprint_is_reported_with_its_line():
    plans = read_plans(GOOD, "plans.yaml")
    text = "name: standard\ntiers:\n  - {{tier: {}, placement: {}, cloud: local, connection_limit: 1}}\n"
    same, other = (read_tiers(text.format("basic", placement), "b.yaml") for placement in ("pooled", "silo"))

    assert unknown_tiers(plans.content, same) == []
    assert plans.report(unknown_tiers(plans.content, other)) == [
        "plans.yaml:8: basic@1 needs the tier basic (pooled), which the blueprint does not have; it has basic (silo)"
    ]
    with pytest.raises(PlansError, match=r"b\.yaml:3: tiers\.0\.placement: write 'pooled'"):
        read_tiers(text.format("basic", "moon"), "b.yaml")
