"""Tests of the forms for people: amounts, durations, times, and progress bars."""

import pytest
from paybill_cli import formatting
from paybill_cli.errors import cli_error
from paybill_cli.exit_codes import ExitCode
from paybill_stack.errors import FailureKind, StackError


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (56780, "EUR", "567.80 EUR"),
        (5, "EUR", "0.05 EUR"),
        (-250, "USD", "-2.50 USD"),
        (1200, "JPY", "1200 JPY"),
        (-1234, "KWD", "-1.234 KWD"),
        (9990, "KWD", "9.990 KWD"),
        (7, "ISK", "7 ISK"),
        (100, "ZZZ", "1.00 ZZZ"),
    ],
)
def test_an_amount_has_the_minor_digits_of_its_currency(minor: int, currency: str, text: str) -> None:
    assert formatting.money({"minor": minor, "currency": currency}) == text


@pytest.mark.parametrize(("units", "text"), [(1, "0.02 EUR per unit"), (1000, "0.02 EUR per 1,000 units")])
def test_an_overage_price_names_its_units(units: int, text: str) -> None:
    assert formatting.overage({"amount": {"minor": 2, "currency": "EUR"}, "units": units}) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (2, "2 s"), (90, "1 min 30 s"), (273_600, "3 d 4 h"), (2_592_000, "30 d")]
)
def test_a_duration_has_units(seconds: int, text: str) -> None:
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-03-01T12:00:00Z", "2026-03-01 12:00:00 UTC"),
        ("2026-03-01T12:00:00.123456+02:00", "2026-03-01 10:00:00 UTC"),
        ("2026-03-01", "2026-03-01"),
        ("ten_1:calls:2026-03-01T00", "ten_1:calls:2026-03-01T00"),
        (7, 7),
        (None, None),
    ],
)
def test_a_time_has_its_zone_and_other_values_are_unchanged(value: object, expected: object) -> None:
    assert formatting.readable(value) == expected


@pytest.mark.parametrize(("done", "total", "filled"), [(0, 0, 0), (1, 2, 12), (5, 4, 24)])
def test_a_bar_is_never_longer_than_its_frame(done: int, total: int, filled: int) -> None:
    bar = formatting.bar(done, total, "text")

    assert (bar.count("#"), len(bar)) == (filled, 26 + len(" text"))


def test_every_kind_of_stack_error_has_an_exit_code() -> None:
    codes = [cli_error(StackError("code", "message", kind=kind)).exit_code for kind in FailureKind]

    assert codes == [
        ExitCode.FAILED,
        ExitCode.USAGE,
        ExitCode.DENIED,
        ExitCode.CONFLICT,
        ExitCode.TIMEOUT,
        ExitCode.UNREACHABLE,
    ]


@pytest.mark.parametrize(
    ("after", "built", "expected"),
    [
        ("bridge", None, ["placement: pooled -> bridge", "isolation stays pooled until moved"]),
        ("pooled", None, []),
        ("bridge", "bridge", ["placement: pooled -> bridge"]),
        ("silo", "bridge", ["placement: pooled -> silo", "isolation stays bridge until moved"]),
    ],
)
def test_a_quote_names_the_isolation_that_stays(after: str, built: str | None, expected: list[str]) -> None:
    environment = {"from_tier": "small", "from_placement": built} if built else None
    tiers = {"tier_before": "small", "tier_after": "small"}
    placements = {"placement_before": "pooled", "placement_after": after}

    lines = formatting.plan_differences({"features": [], "environment": environment, **tiers, **placements})

    assert [line.strip() for line in lines] == expected


@pytest.mark.parametrize(
    ("after", "built", "stays"),
    [
        ("pooled", None, []),
        ("bridge", None, ["tier stays starter until moved", "isolation stays pooled until moved"]),
        ("bridge", ("starterplus", "pooled"), ["isolation stays pooled until moved"]),
        ("pooled", ("starter", "pooled"), []),
    ],
)
def test_a_quote_of_another_tier_on_the_same_placement_waits_for_nothing(
    after: str, built: tuple[str, str] | None, stays: list[str]
) -> None:
    environment = {"from_tier": built[0], "from_placement": built[1]} if built else None
    tiers = {"tier_before": "starter", "tier_after": "starterplus"}
    placements = {"placement_before": "pooled", "placement_after": after}

    lines = formatting.plan_differences({"features": [], "environment": environment, **tiers, **placements})

    assert [line.strip() for line in lines if "stays" in line] == stays
    assert "  tier: starter -> starterplus" in lines
