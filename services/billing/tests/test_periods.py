"""Billing periods and proration: by the day, in whole minor units, never more than the full price."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.providers.manual.domain.periods import days_left, period_after, prorated
from paybill_contracts.catalogue import Interval

moments = st.integers(0, 4 * 10**9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
intervals = st.sampled_from(Interval)
amounts = st.integers(0, 10**15)


@st.composite
def remainders(draw):
    days = draw(st.integers(1, 400))
    return draw(st.integers(0, days)), days


@pytest.mark.parametrize(
    ("anchor", "start", "interval", "end"),
    [
        ((2026, 1, 31), (2026, 1, 31), Interval.MONTH, (2026, 2, 28)),
        ((2026, 1, 31), (2026, 2, 28), Interval.MONTH, (2026, 3, 31)),
        ((2024, 2, 29), (2024, 2, 29), Interval.YEAR, (2025, 2, 28)),
        ((2024, 2, 29), (2027, 2, 28), Interval.YEAR, (2028, 2, 29)),
        ((2026, 12, 5), (2026, 12, 5), Interval.MONTH, (2027, 1, 5)),
    ],
)
def test_a_period_ends_on_the_day_of_its_anchor_or_the_last_day_of_a_shorter_month(anchor, start, interval, end):
    assert period_after(datetime(*anchor, tzinfo=UTC), interval, datetime(*start, tzinfo=UTC)) == datetime(
        *end, tzinfo=UTC
    )


@given(moments, intervals, st.integers(1, 30))
def test_consecutive_periods_have_no_gap_and_no_drift(anchor, interval, count):
    start = anchor
    for _ in range(count):
        end = period_after(anchor, interval, start)
        assert timedelta(days=27) < end - start < timedelta(days=367)
        assert end.time() == anchor.time()
        start = end
    assert start.day == anchor.day or (start + timedelta(days=1)).day == 1


@given(moments, intervals, st.timedeltas(timedelta(days=-10), timedelta(days=400)))
def test_the_days_left_never_exceed_the_period_and_never_grow(start, interval, after):
    end = period_after(start, interval, start)
    left, days = days_left(start, end, start + after)

    assert 0 <= left <= days
    assert left == days or after >= timedelta(days=1)
    assert days_left(start, end, start + after + timedelta(days=1))[0] <= left
    assert left == 0 or start + after < end


@given(amounts, remainders())
def test_a_prorated_amount_never_exceeds_the_price_and_is_exact_to_half_a_unit(amount, remainder):
    left, days = remainder

    assert 0 <= prorated(amount, left, days) <= amount
    assert 2 * abs(prorated(amount, left, days) * days - amount * left) <= days


@given(amounts, remainders())
def test_the_two_prorated_amounts_of_a_price_add_up_to_it_within_one_unit(amount, remainder):
    left, days = remainder

    assert abs(prorated(amount, left, days) + prorated(amount, days - left, days) - amount) <= 1


def test_halves_are_rounded_to_the_even_unit():
    assert [prorated(amount, 1, 2) for amount in (1, 3, 5, 7)] == [0, 2, 2, 4]
