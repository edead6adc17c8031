"""Period ends keep the anchor's day, whatever the length of the months between."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paybill_stripe_fake.billing_cycle import INTERVALS, period_end


def at(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("anchor", "start", "interval", "count", "end"),
    [
        ("2026-01-31T10:00:00", "2026-01-31T10:00:00", "month", 1, "2026-02-28T10:00:00"),
        ("2026-01-31T10:00:00", "2026-02-28T10:00:00", "month", 1, "2026-03-31T10:00:00"),
        ("2028-02-29T00:00:00", "2028-02-29T00:00:00", "year", 1, "2029-02-28T00:00:00"),
        ("2028-02-29T00:00:00", "2031-02-28T00:00:00", "year", 1, "2032-02-29T00:00:00"),
        ("2026-11-30T00:00:00", "2026-11-30T00:00:00", "month", 3, "2027-02-28T00:00:00"),
        ("2026-12-31T23:59:59", "2026-12-31T23:59:59", "day", 1, "2027-01-01T23:59:59"),
        ("2026-12-31T00:00:00", "2026-12-31T00:00:00", "week", 2, "2027-01-14T00:00:00"),
        ("2026-06-15T00:00:00", "2026-06-01T00:00:00", "month", 1, "2026-06-15T00:00:00"),
    ],
)
def test_a_period_ends_on_the_anchors_day_or_the_months_last(anchor, start, interval, count, end):
    assert period_end(at(anchor), at(start), interval, count) == at(end)


@given(
    st.integers(0, 2_000_000_000),
    st.integers(0, 100_000_000),
    st.sampled_from(INTERVALS),
    st.integers(1, 3),
)
def test_a_period_ends_after_it_starts_and_the_next_begins_without_a_gap(anchor, later, interval, count):
    start = anchor + later
    end = period_end(anchor, start, interval, count)

    assert end > start
    assert period_end(anchor, end - 1, interval, count) == end
    assert period_end(anchor, end, interval, count) > end
