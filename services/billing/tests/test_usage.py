"""Usage is counted for tenants and meters that we know, once, in windows that close and are then left alone."""

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
from paybill_contracts.billing import UsageRecorded
from paybill_contracts.errors import DomainError
from paybill_contracts.metering import QuotaExceeded, QuotaWarned, UsageWindowOpened
from usage_samples import HOUR, ID, START, Metering, counts, feature, plan, used


def test_usage_adds_up():
    metering = Metering()

    metering.record(used(3))
    metering.record(used(4))

    assert (metering.meter.id, metering.meter.total, metering.meter.records) == (ID, 7, 2)
    (window,) = metering.meter.windows
    assert (window.start, window.end, window.value, window.records) == (START, datetime(2026, 4, 1, tzinfo=UTC), 7, 2)


@pytest.mark.parametrize(
    ("given_", "changes", "error"),
    [
        (used(at=NOW), {"account": None}, UnknownTenantError),
        (used(at=NOW), {"entitlements": None}, UnknownMeterError),
        (used(at=NOW, meter="disk"), {}, UnknownMeterError),
        (used(at=NOW - timedelta(days=35, seconds=1)), {}, UsageOutsideWindowError),
        (used(at=NOW + timedelta(minutes=5, seconds=1)), {}, UsageOutsideWindowError),
        (used(10**12 + 1, at=NOW), {}, UsageTooLargeError),
    ],
    ids=["tenant", "nothing bought", "meter", "too old", "too new", "too much"],
)
def test_usage_that_cannot_be_billed_is_refused(given_, changes, error):
    known = plan()
    known = usage.Plan(**{name: changes.get(name, getattr(known, name)) for name in known.__slots__})

    with pytest.raises(error):
        Metering(known).record(given_, now=NOW)


def test_a_total_that_no_fact_could_hold_is_refused_before_it_is_recorded():
    metering = Metering()
    for _ in range(1000):
        metering.record(used(10**12))

    with pytest.raises(UsageTooLargeError):
        metering.record(used(1))


@pytest.mark.parametrize(("aggregation", "value"), [("count", 4), ("sum", 17), ("max", 9), ("unique", 2)], ids=str)
def test_a_window_holds_what_its_meter_counts(aggregation, value):
    metering = Metering(plan(meters=[counts(aggregation=aggregation)]))

    for quantity, of in ((5, "ada"), (9, "bob"), (1, "ada"), (2, "bob")):
        counted = metering.record(used(quantity, of=of))

    assert (counted.value, usage.used_now(metering.meter, START)) == (value, value)
    assert usage.used_now(metering.meter, START + timedelta(days=40)) == 0


def test_what_comes_after_the_watermark_is_too_late_and_says_since_when():
    metering = Metering(plan(meters=[counts(window="hour", lateness_s=60)]))
    metering.record(used(at=START))

    metering.record(used(at=START), now=START + HOUR + timedelta(seconds=59))
    with pytest.raises(UsageTooLateError, match="2026-03-01T01:01:00"):
        metering.record(used(at=START), now=START + HOUR + timedelta(seconds=60))
    metering.close(START + HOUR + timedelta(seconds=60))
    with pytest.raises(UsageTooLateError):
        metering.record(used(at=START), now=START + 2 * HOUR)

    assert metering.closed[START].value == 2


def test_what_arrived_in_time_counts_although_it_was_heard_late():
    metering = Metering(plan(meters=[counts(window="hour", lateness_s=60)]))

    metering.record(used(at=START), arrived=START + HOUR, now=START + 9 * HOUR)

    assert metering.meter.windows[0].value == 1


def test_windows_follow_the_catalogue_of_the_moment_in_which_they_were_opened():
    metering = Metering(plan(meters=[counts(window="day", aggregation="sum")]))
    metering.record(used(5, at=START))
    metering.plan = plan(meters=[counts(window="month", aggregation="count")])

    metering.record(used(5, at=START + HOUR))
    metering.record(used(5, at=START + 30 * HOUR))

    day, month = metering.meter.windows
    assert (day.aggregation, day.value, day.end) == ("sum", 10, START + timedelta(days=1))
    assert (month.aggregation, month.value, month.start, month.end.month) == ("count", 1, day.end, 4)
    assert len({fact.catalogue_hash for fact in metering.of(UsageWindowOpened)}) == 2


def test_a_plan_that_changes_in_the_window_keeps_the_count():
    metering = Metering(plan(feature(quota=10)))
    metering.record(used(10))
    metering.plan = plan(feature(quota=100))

    metering.record(used(1))

    assert usage.used_now(metering.meter, START) == 11


def test_quotas_are_told_of_once_and_again_when_they_have_risen():
    metering = Metering(plan(feature(quota=10)))
    for _ in range(12):
        metering.record(used(1))
    first = [(fact.TYPE.partition("_")[2], fact.value, fact.quota) for fact in metering.facts if "quota" in fact.TYPE]
    metering.plan = plan(feature(quota=20))
    for _ in range(12):
        metering.record(used(1))

    told = [(fact.TYPE.partition("_")[2], fact.value, fact.quota) for fact in metering.facts if "quota" in fact.TYPE]

    assert first == [("warned", 8, 10), ("exceeded", 10, 10)]
    assert told == [*first, ("warned", 16, 20), ("exceeded", 20, 20)]


def test_a_quota_that_fell_is_told_of_but_not_warned_about_again():
    metering = Metering(plan(feature(quota=20)))
    metering.record(used(16))
    metering.plan = plan(feature(quota=10))
    metering.record(used(1))

    assert [fact.quota for fact in metering.of(QuotaWarned)] == [20]
    assert [fact.quota for fact in metering.of(QuotaExceeded)] == [10]


def test_without_a_quota_what_is_included_is_told_about_and_several_features_bind_as_the_tightest():
    held = plan(feature(quota=50, included=7), feature(quota=30, included=9, key="more")).entitlements
    metering = Metering(plan(feature(included=2)))

    metering.record(used(2))

    assert [fact.quota for fact in metering.of(QuotaExceeded)] == [2]
    assert allowance_of(held, "calls") == Allowance(included=7, quota=30)


def test_consuming_counts_up_to_the_quota_and_not_beyond():
    metering = Metering(plan(feature(quota=10)))

    allowed = [metering.consume(used(4)).refusal for _ in range(3)]
    last = metering.consume(used(2))

    assert allowed == [None, None, Refusal.QUOTA_EXCEEDED]
    assert (last.refusal, last.value) == (None, 10)
    assert [fact.quantity for fact in metering.of(UsageRecorded)] == [4, 4, 2]


def test_consuming_is_refused_without_access_and_unlimited_without_a_quota():
    shut_out = Metering(plan(allows=False))

    assert shut_out.consume(used(1)).refusal is Refusal.NO_ACCESS
    assert shut_out.facts == []
    assert Metering().consume(used(10**6)).refusal is None


def test_somebody_who_came_before_needs_no_room_in_a_full_window():
    metering = Metering(plan(feature(quota=1), meters=[counts(aggregation="unique")]))
    metering.consume(used(of="ada"))

    assert metering.consume(used(of="bob")).refusal is Refusal.QUOTA_EXCEEDED
    assert metering.consume(used(of="ada")).refusal is None
    assert usage.used_now(metering.meter, START) == 1


def test_what_counts_different_things_has_to_say_which():
    with pytest.raises(DistinctItemMissingError):
        Metering(plan(meters=[counts(aggregation="unique")])).record(used())


def test_the_members_of_a_shard_are_bounded_and_those_of_closed_windows_forgotten():
    shard = None
    texts = [f"7f{number:022x}" for number in range(distinct_counts.MAX_ITEMS + 1)]
    for text in texts[:-1]:
        shard = distinct_counts.evolve(shard, distinct_counts.count_distinct(shard, ID, START, text, START))

    with pytest.raises(TooManyDistinctItemsError):
        distinct_counts.count_distinct(shard, ID, START, texts[-1], START)
    later = START + timedelta(days=31)
    shard = distinct_counts.evolve(shard, distinct_counts.count_distinct(shard, ID, later, texts[-1], later))

    assert list(shard.seen) == [later]
    assert distinct_counts.contains(shard, later, texts[-1])
    assert not distinct_counts.contains(shard, later, texts[0])


def test_the_end_of_one_member_and_the_beginning_of_the_next_are_no_member():
    shard = None
    for text in ("7f" + "a" * 22, "7f" + "b" * 22):
        shard = distinct_counts.evolve(shard, distinct_counts.count_distinct(shard, ID, START, text, START))
    across = ("7f" + "a" * 22 + "7f" + "b" * 22)[12:36]

    assert not distinct_counts.contains(shard, START, across)
    assert distinct_counts.contains(shard, START, "7f" + "b" * 22)


def test_facts_of_the_time_before_windows_still_replay():
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
    metering.happened([old])

    metering.record(used(2))

    assert (metering.meter.total, metering.meter.records) == (7, 2)
    assert usage.used_now(metering.meter, START) == 2


measurements = st.lists(
    st.tuples(
        st.integers(0, 9),  # which measurement: the same number again is a copy
        st.integers(0, 6 * 60),  # minutes after the start when it was used
        st.integers(0, 5 * 60),  # minutes later when it came
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
def test_in_any_order_with_copies_and_late_ones_a_window_is_what_a_model_says(
    stream, aggregation, window, lateness, quota
):
    metering = Metering(
        plan(feature(quota=quota), meters=[counts(aggregation=aggregation, window=window, lateness_s=lateness * 60)])
    )
    heard, accepted = set(), {}
    for number, minute, later, of in sorted(stream, key=lambda m: m[1] + m[2]):
        at, now = START + timedelta(minutes=minute), START + timedelta(minutes=minute + later)
        metering.close(now)
        if number in heard:  # the inbox's care
            continue
        heard.add(number)
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
        told = [fact.window_start for fact in metering.of(kind)]
        assert sorted(told) == sorted(s for s, w in metering.closed.items() if w.value * 100 >= quota * share)


@given(
    st.lists(st.tuples(st.integers(0, 72), st.sampled_from(["hour", "day", "month"]), st.integers(0, 48))),
)
def test_windows_never_overlap_whatever_the_catalogue_says_meanwhile(uses):
    metering, now = Metering(), START
    for hours, window, lateness in uses:
        metering.plan = plan(meters=[counts(window=window, lateness_s=lateness * 3600)])
        now = max(now, START + hours * HOUR)
        metering.close(now)
        try:
            metering.record(used(at=START + hours * HOUR), now=now)
        except DomainError:
            continue
    held = sorted((fact.window_start, fact.window_end) for fact in metering.of(UsageWindowOpened))

    assert all(start < end for start, end in held)
    assert all(end <= start for (_, end), (start, _) in pairwise(held))
