"""Periods and parts of prices: to the day, in whole minor units, and never more than the whole."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.providers.manual.domain.periods import days_left, part, period_after
from paybill_contracts.catalogue import Interval

moments = st.integers(0, 4 * 10**9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
intervals = st.sampled_from(Interval)
amounts = st.integers(0, 10**15)


@st.composite
def rests(draw):
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
def test_a_period_ends_on_its_anchors_day_or_on_the_last_of_a_shorter_month(anchor, start, interval, end):
    assert period_after(datetime(*anchor, tzinfo=UTC), interval, datetime(*start, tzinfo=UTC)) == datetime(
        *end, tzinfo=UTC
    )


@given(moments, intervals, st.integers(1, 30))
def test_periods_follow_one_another_without_gap_and_without_drift(anchor, interval, count):
    start = anchor
    for _ in range(count):
        end = period_after(anchor, interval, start)
        assert timedelta(days=27) < end - start < timedelta(days=367)
        assert end.time() == anchor.time()
        start = end
    assert start.day == anchor.day or (start + timedelta(days=1)).day == 1


@given(moments, intervals, st.timedeltas(timedelta(days=-10), timedelta(days=400)))
def test_the_days_left_are_never_more_than_there_are_and_never_grow(start, interval, after):
    end = period_after(start, interval, start)
    left, days = days_left(start, end, start + after)

    assert 0 <= left <= days
    assert left == days or after >= timedelta(days=1)
    assert days_left(start, end, start + after + timedelta(days=1))[0] <= left
    assert left == 0 or start + after < end


@given(amounts, rests())
def test_a_part_is_never_more_than_the_whole_and_wrong_by_no_more_than_half_a_unit(amount, rest):
    left, days = rest

    assert 0 <= part(amount, left, days) <= amount
    assert 2 * abs(part(amount, left, days) * days - amount * left) <= days


@given(amounts, rests())
def test_the_two_parts_of_a_price_are_wrong_by_no_more_than_one_unit_together(amount, rest):
    left, days = rest

    assert abs(part(amount, left, days) + part(amount, days - left, days) - amount) <= 1


def test_halves_go_to_the_even_unit():
    assert [part(amount, 1, 2) for amount in (1, 3, 5, 7)] == [0, 2, 2, 4]
