"""Tests of counting usage: windows, aggregation, quotas, watermarks and distinct items."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from billing_samples import NOW, TENANT
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.subscriptions.domain.accounts import UnknownTenantError
from paybill_billing.usage.domain import distinct_counts, usage
from paybill_billing.usage.domain.distinct_counts import TooManyDistinctItemsError
from paybill_billing.usage.domain.quotas import Allowance, allowance_of
from paybill_billing.usage.domain.usage import (
    DistinctItemMissingError,
    Refusal,
    UnknownMeterError,
    UsageOutsideWindowError,
    UsageTooLargeError,
    UsageTooLateError,
)
from paybill_billing.usage.tables import DISTINCT_SETS
from paybill_contracts.billing import UsageRecorded
from paybill_contracts.errors import DomainError
from paybill_contracts.metering import QuotaExceeded, QuotaWarned, UsageWindowOpened
from usage_samples import HOUR, ID, START, Metering, feature, meter_definition, plan, used


def test_usage_adds_up():
    metering = Metering()

    metering.record(used(3))
    metering.record(used(4))

    assert (metering.meter.id, metering.meter.total, metering.meter.records) == (ID, 7, 2)
    (window,) = metering.meter.windows
    assert (window.start, window.end, window.value, window.records) == (START, datetime(2026, 4, 1, tzinfo=UTC), 7, 2)


@pytest.mark.parametrize(
    ("measurement", "changes", "error"),
    [
        (used(at=NOW), {"account": None}, UnknownTenantError),
        (used(at=NOW), {"entitlements": None}, UnknownMeterError),
        (used(at=NOW, meter="disk"), {}, UnknownMeterError),
        (used(at=NOW - timedelta(days=35, seconds=1)), {}, UsageOutsideWindowError),
        (used(at=NOW + timedelta(minutes=5, seconds=1)), {}, UsageOutsideWindowError),
        (used(10**12 + 1, at=NOW), {}, UsageTooLargeError),
    ],
    ids=["unknown tenant", "no entitlements", "unknown meter", "too old", "in the future", "too large"],
)
def test_usage_that_cannot_be_billed_is_refused(measurement, changes, error):
    sound = plan()
    changed = usage.Plan(**{name: changes.get(name, getattr(sound, name)) for name in sound.__slots__})

    with pytest.raises(error):
        Metering(changed).record(measurement, now=NOW)


def test_a_total_above_the_maximum_is_refused():
    metering = Metering()
    for _ in range(1000):
        metering.record(used(10**12))

    with pytest.raises(UsageTooLargeError, match=r"the total of calls would exceed 10\^15"):
        metering.record(used(1))


@pytest.mark.parametrize(("aggregation", "value"), [("count", 4), ("sum", 17), ("max", 9), ("unique", 2)], ids=str)
def test_a_window_aggregates_as_its_meter_defines(aggregation, value):
    metering = Metering(plan(meters=[meter_definition(aggregation=aggregation)]))

    for quantity, of in ((5, "ada"), (9, "bob"), (1, "ada"), (2, "bob")):
        counted = metering.record(used(quantity, of=of))

    assert (counted.value, usage.used_now(metering.meter, START)) == (value, value)
    assert usage.used_now(metering.meter, START + timedelta(days=40)) == 0


def test_usage_before_the_watermark_is_refused_with_the_closing_time():
    metering = Metering(plan(meters=[meter_definition(window="hour", lateness_s=60)]))
    metering.record(used(at=START))

    metering.record(used(at=START), now=START + HOUR + timedelta(seconds=59))
    with pytest.raises(UsageTooLateError, match="2026-03-01T01:01:00"):
        metering.record(used(at=START), now=START + HOUR + timedelta(seconds=60))
    metering.close(START + HOUR + timedelta(seconds=60))
    with pytest.raises(UsageTooLateError):
        metering.record(used(at=START), now=START + 2 * HOUR)

    assert metering.closed[START].value == 2


def test_usage_that_arrived_in_time_counts_although_it_is_processed_late():
    metering = Metering(plan(meters=[meter_definition(window="hour", lateness_s=60)]))

    metering.record(used(at=START), arrived=START + HOUR, now=START + 9 * HOUR)

    assert metering.meter.windows[0].value == 1


def test_a_window_keeps_the_catalogue_settings_of_its_opening():
    metering = Metering(plan(meters=[meter_definition(window="day", aggregation="sum")]))
    metering.record(used(5, at=START))
    metering.plan = plan(meters=[meter_definition(window="month", aggregation="count")])

    metering.record(used(5, at=START + HOUR))
    metering.record(used(5, at=START + 30 * HOUR))

    day, month = metering.meter.windows
    assert (day.aggregation, day.value, day.end) == ("sum", 10, START + timedelta(days=1))
    assert (month.aggregation, month.value, month.start, month.end.month) == ("count", 1, day.end, 4)
    assert len({fact.catalogue_hash for fact in metering.of(UsageWindowOpened)}) == 2


def test_a_plan_change_within_a_window_keeps_the_count():
    metering = Metering(plan(feature(quota=10)))
    metering.record(used(10))
    metering.plan = plan(feature(quota=100))

    metering.record(used(1))

    assert usage.used_now(metering.meter, START) == 11


def test_quota_facts_are_emitted_once_and_again_after_the_quota_is_raised():
    metering = Metering(plan(feature(quota=10)))
    for _ in range(12):
        metering.record(used(1))
    first = [(fact.TYPE.partition("_")[2], fact.value, fact.quota) for fact in metering.facts if "quota" in fact.TYPE]
    metering.plan = plan(feature(quota=20))
    for _ in range(12):
        metering.record(used(1))

    every = [(fact.TYPE.partition("_")[2], fact.value, fact.quota) for fact in metering.facts if "quota" in fact.TYPE]

    assert first == [("warned", 8, 10), ("exceeded", 10, 10)]
    assert every == [*first, ("warned", 16, 20), ("exceeded", 20, 20)]


def test_a_lowered_quota_emits_exceeded_but_no_second_warning():
    metering = Metering(plan(feature(quota=20)))
    metering.record(used(16))
    metering.plan = plan(feature(quota=10))
    metering.record(used(1))

    assert [fact.quota for fact in metering.of(QuotaWarned)] == [20]
    assert [fact.quota for fact in metering.of(QuotaExceeded)] == [10]


def test_the_included_amount_replaces_a_missing_quota_and_the_smallest_allowance_applies():
    entitlements = plan(feature(quota=50, included=7), feature(quota=30, included=9, key="more")).entitlements
    metering = Metering(plan(feature(included=2)))

    metering.record(used(2))

    assert [fact.quota for fact in metering.of(QuotaExceeded)] == [2]
    assert allowance_of(entitlements, "calls") == Allowance(included=7, quota=30)


def test_consuming_counts_up_to_the_quota_and_not_beyond():
    metering = Metering(plan(feature(quota=10)))

    allowed = [metering.consume(used(4)).refusal for _ in range(3)]
    last = metering.consume(used(2))

    assert allowed == [None, None, Refusal.QUOTA_EXCEEDED]
    assert (last.refusal, last.value) == (None, 10)
    assert [fact.quantity for fact in metering.of(UsageRecorded)] == [4, 4, 2]


def test_consuming_is_refused_without_access_and_unlimited_without_a_quota():
    without_access = Metering(plan(allows=False))

    assert without_access.consume(used(1)).refusal is Refusal.NO_ACCESS
    assert without_access.facts == []
    assert Metering().consume(used(10**6)).refusal is None


def test_an_item_counted_before_is_allowed_in_a_window_at_its_quota():
    metering = Metering(plan(feature(quota=1), meters=[meter_definition(aggregation="unique")]))
    metering.consume(used(of="ada"))

    assert metering.consume(used(of="bob")).refusal is Refusal.QUOTA_EXCEEDED
    assert metering.consume(used(of="ada")).refusal is None
    assert usage.used_now(metering.meter, START) == 1


def test_a_meter_of_distinct_items_refuses_usage_without_an_item():
    with pytest.raises(DistinctItemMissingError):
        Metering(plan(meters=[meter_definition(aggregation="unique")])).record(used())


def test_the_items_of_a_shard_are_bounded_and_those_of_closed_windows_are_dropped():
    shard = None
    texts = [f"7f{number:022x}" for number in range(distinct_counts.MAX_ITEMS + 1)]
    for text in texts[:-1]:
        shard = distinct_counts.evolve(shard, distinct_counts.count_distinct(shard, ID, START, text, START))

    with pytest.raises(TooManyDistinctItemsError):
        distinct_counts.count_distinct(shard, ID, START, texts[-1], START)
    later = START + timedelta(days=31)
    shard = distinct_counts.evolve(shard, distinct_counts.count_distinct(shard, ID, later, texts[-1], later))

    assert list(shard.digests) == [later]
    assert distinct_counts.contains(shard, later, texts[-1])
    assert not distinct_counts.contains(shard, later, texts[0])
    stored = json.loads(DISTINCT_SETS.dump(shard))
    assert (list(stored), DISTINCT_SETS.load(DISTINCT_SETS.dump(shard))) == (["id", "seen"], shard)


def test_a_match_across_two_adjacent_digests_is_ignored():
    shard = None
    for text in ("7f" + "a" * 22, "7f" + "b" * 22):
        shard = distinct_counts.evolve(shard, distinct_counts.count_distinct(shard, ID, START, text, START))
    across = ("7f" + "a" * 22 + "7f" + "b" * 22)[12:36]

    assert not distinct_counts.contains(shard, START, across)
    assert distinct_counts.contains(shard, START, "7f" + "b" * 22)


def test_facts_from_before_windows_existed_still_replay():
    old = UsageRecorded(
        meter_id=ID,
        tenant_id=TENANT,
        meter="calls",
        usage_id="0190a5b0-0000-7000-8000-000000000001",
        publisher="metering",
        quantity=5,
        total=5,
        occurred_at=START,
    )
    metering = Metering()
    metering.apply([old])

    metering.record(used(2))

    assert (metering.meter.total, metering.meter.records) == (7, 2)
    assert usage.used_now(metering.meter, START) == 2


measurements = st.lists(
    st.tuples(
        st.integers(0, 9),  # number of the measurement: the same number again is a duplicate
        st.integers(0, 6 * 60),  # time of use, in minutes after the start
        st.integers(0, 5 * 60),  # delay of its arrival in minutes
        st.sampled_from(["ada", "bob", "eve"]),
    ),
    max_size=40,
)


@given(
    measurements,
    st.sampled_from(["count", "sum", "max", "unique"]),
    st.sampled_from(["hour", "day"]),
    st.integers(0, 120),
    st.integers(1, 30),
)
def test_windows_equal_a_model_for_any_order_duplicates_and_late_usage(stream, aggregation, window, lateness, quota):
    metering = Metering(
        plan(
            feature(quota=quota),
            meters=[meter_definition(aggregation=aggregation, window=window, lateness_s=lateness * 60)],
        )
    )
    processed, accepted = set(), {}
    for number, minute, later, of in sorted(stream, key=lambda m: m[1] + m[2]):
        at, now = START + timedelta(minutes=minute), START + timedelta(minutes=minute + later)
        metering.close(now)
        if number in processed:  # the inbox deduplicates
            continue
        processed.add(number)
        start = at.replace(minute=0) if window == "hour" else START
        closes = start + (HOUR if window == "hour" else timedelta(days=1)) + timedelta(minutes=lateness)
        try:
            metering.record(used(number + 1, at=at, of=of), now=now)
        except UsageTooLateError:
            assert now >= closes
            continue
        assert now < closes
        accepted.setdefault(start, []).append((number + 1, of))
    metering.close(START + timedelta(days=9))

    model = {
        "count": len,
        "sum": lambda all_: sum(quantity for quantity, _ in all_),
        "max": lambda all_: max(quantity for quantity, _ in all_),
        "unique": lambda all_: len({of for _, of in all_}),
    }[aggregation]
    assert {start: w.value for start, w in metering.closed.items()} == {s: model(a) for s, a in accepted.items()}
    assert (metering.meter.windows if metering.meter else ()) == ()
    assert sum(w.records for w in metering.closed.values()) == len(metering.of(UsageRecorded))
    total = sum(fact.quantity for fact in metering.of(UsageRecorded))
    assert total == (metering.meter.total if metering.meter else 0) == sum(q for a in accepted.values() for q, _ in a)
    for kind, share in ((QuotaWarned, 80), (QuotaExceeded, 100)):
        starts = [fact.window_start for fact in metering.of(kind)]
        assert sorted(starts) == sorted(s for s, w in metering.closed.items() if w.value * 100 >= quota * share)


@given(
    st.lists(st.tuples(st.integers(0, 72), st.sampled_from(["hour", "day", "month"]), st.integers(0, 48))),
)
def test_windows_never_overlap_after_any_changes_of_the_catalogue(uses):
    metering, now = Metering(), START
    for hours, window, lateness in uses:
        metering.plan = plan(meters=[meter_definition(window=window, lateness_s=lateness * 3600)])
        now = max(now, START + hours * HOUR)
        metering.close(now)
        try:
            metering.record(used(at=START + hours * HOUR), now=now)
        except DomainError:
            continue
    bounds = sorted((fact.window_start, fact.window_end) for fact in metering.of(UsageWindowOpened))

    assert all(start < end for start, end in bounds)
    assert all(end <= start for (_, end), (start, _) in pairwise(bounds))
