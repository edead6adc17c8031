"""Tests of usage on invoices: each period's usage is reported in time for its invoice, and each unit once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from billing_samples import TENANT
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.providers.port import InvoicedUsage
from paybill_billing.usage.domain import billing_periods, closed_windows, usage
from paybill_billing.usage.domain.allocation import allocate
from paybill_billing.usage.domain.billing_periods import DELAY, EARLY
from paybill_billing.usage.domain.closed_windows import ClosedWindow, Part, Status
from paybill_billing.usage.domain.invoices import compare
from paybill_billing.usage.domain.quotas import allowance_of
from paybill_billing.usage.domain.windows import window_id
from paybill_contracts.billing import AccessState
from paybill_contracts.metering import UsageAllocated
from subscription_samples import subscription_of
from usage_samples import ID, Metering, feature, meter_definition, plan, used

START = datetime(2026, 3, 15, 10, 17, 23, tzinfo=UTC)
END = datetime(2026, 4, 15, 10, 17, 23, tzinfo=UTC)
NEXT_END = datetime(2026, 5, 15, 10, 17, 23, tzinfo=UTC)
DAY = timedelta(days=1)


class Invoiced(Metering):
    """A meter with the billing periods of its tenant, and the parts of its windows."""

    def __init__(self, subscription, plan_=None):
        super().__init__(plan_ or plan(feature(included=0), meters=[DEFINITION]))
        self.subscription = subscription
        self.windows = {}
        self.sync(subscription.period_start)

    @property
    def period(self):
        return self.plan.period

    def evolve_period(self, events):
        for event in events:
            self.plan = replace(self.plan, period=billing_periods.evolve(self.period, event))

    def sync(self, now, **changes):
        self.subscription = self.subscription.model_copy(update=changes)
        self.evolve_period(billing_periods.on_subscription(self.period, self.subscription, now))

    def renew(self, now, **changes):
        ends = {END: NEXT_END}.get(self.subscription.period_end, self.subscription.period_end + 30 * DAY)
        self.sync(now, period_start=self.subscription.period_end, period_end=ends, **changes)

    def tick(self, at):
        """Does what the job does at this time: reaches the cutoffs that are due, and closes windows."""
        while (due := billing_periods.cutoff(self.period, at)) is not None:
            for window in self.meter.windows if self.meter else ():
                self._allocate(window, due)
            self.evolve_period(billing_periods.reached(self.period, at))
        closing = [w for w in self.meter.windows if w.closes_at <= at] if self.meter else []
        for window in closing:
            due = billing_periods.Cutoff(self.period.start, at, None, self.period.final)
            self._allocate(window, due)
            self._evolve_window(window, closed_windows.close(self.meter, window, "stripe"))
        self.apply(usage.advance(self.meter, closing) if closing else [])

    def _allocate(self, window, due):
        allowance = allowance_of(self.plan.entitlements, "calls")
        free = self.period.is_free(due.start)
        about = {"before": due.before, "until": due.until, "start": due.start, "allowance": allowance, "free": free}
        for event in allocate(self.meter, window, **about):
            why = "ended" if due.final else None
            self._evolve_window(window, closed_windows.close_part(self.meter, window, event, "stripe", unbilled=why))
            self.apply([event])

    def _evolve_window(self, window, events):
        id_ = window_id(ID, window.start)
        for event in events:
            self.windows[id_] = closed_windows.evolve(self.windows.get(id_), event)

    def parts(self, status=Status.DUE):
        return [part for window in self.windows.values() for part in window.parts if part.status is status]

    def billed(self, start, end):
        """Returns the units that Stripe would put on the invoice of this period."""
        parts = [part for window in self.windows.values() for part in window.parts]
        return sum(part.quantity for part in parts if part.status is not Status.UNBILLED and start <= part.at < end)


DEFINITION = meter_definition(provider_meters={"stripe": "api_calls"})


@pytest.fixture
def subscribed(subscription):
    return Invoiced(subscription)


@pytest.fixture
def subscription():
    return subscription_of(TENANT, period_start=START, period_end=END)


def test_usage_of_a_period_is_allocated_before_its_invoice_is_final(subscribed):
    subscribed.record(used(7, at=START + DAY))
    subscribed.record(used(5, at=END - timedelta(hours=2)))

    subscribed.tick(END - EARLY)
    subscribed.record(used(30, at=END - timedelta(minutes=1)))
    subscribed.record(used(100, at=END + timedelta(minutes=1)), now=END + timedelta(minutes=1))
    subscribed.renew(END + timedelta(minutes=2))
    subscribed.tick(END + DELAY)

    assert [part.quantity for part in subscribed.parts()] == [7, 5, 30]
    assert subscribed.billed(START, END) == 42
    subscribed.tick(NEXT_END + DELAY)
    assert subscribed.billed(END, NEXT_END) == 100


def test_late_usage_goes_to_the_next_invoice(subscribed):
    subscribed.record(used(7, at=END - DAY))
    subscribed.tick(END + DELAY)
    subscribed.renew(END + DELAY)

    subscribed.record(used(5, at=END - timedelta(hours=1)), now=END + DAY)
    subscribed.tick(NEXT_END + DELAY)

    assert (subscribed.billed(START, END), subscribed.billed(END, NEXT_END)) == (7, 5)


def test_a_change_now_waits_for_the_allocation_of_all_usage(subscribed):
    for quantity in (7, 5, 30):
        subscribed.record(used(quantity, at=START + DAY))
    now = START + DAY + timedelta(seconds=9)

    subscribed.evolve_period(billing_periods.request_cutoff(subscribed.period, "chg_1", now))
    subscribed.tick(now)

    assert "chg_1" in subscribed.period.done
    assert [(part.quantity, part.at) for part in subscribed.parts()] == [(42, now - timedelta(seconds=1))]
    assert billing_periods.request_cutoff(subscribed.period, "chg_1", now) == []
    assert subscribed.period.due == END - EARLY


def test_usage_that_is_not_reported_when_the_customer_ends_the_subscription_is_unbilled(subscribed):
    subscribed.record(used(42, at=START + DAY))

    subscribed.sync(START + 2 * DAY, access=AccessState.ENDED, provider_status="canceled")
    subscribed.tick(START + 2 * DAY)

    (window,) = subscribed.windows.values()
    assert (window.status, window.unbilled, window.reported) == (Status.UNBILLED, 42, None)
    assert subscribed.period.due is None
    subscribed.record(used(3, at=START + DAY), now=START + 2 * DAY)
    subscribed.tick(START + 30 * DAY)
    assert sum(part.quantity for part in subscribed.parts(Status.UNBILLED)) == 45


def test_usage_of_a_subscription_that_ends_with_its_period_is_on_the_last_invoice(subscribed):
    subscribed.sync(START + DAY, cancel_at=END)
    subscribed.record(used(42, at=END - DAY))
    subscribed.tick(END - EARLY)

    subscribed.sync(END, access=AccessState.ENDED, provider_status="canceled")
    subscribed.record(used(1, at=END - timedelta(minutes=2)), now=END + timedelta(minutes=2))
    subscribed.tick(END + DELAY)

    assert subscribed.billed(START, END) == 43
    assert subscribed.parts(Status.UNBILLED) == []


def test_usage_of_a_trial_is_free(subscription):
    trial = subscription.model_copy(update={"access": AccessState.TRIALING, "trial_end": END})
    subscribed = Invoiced(trial)
    subscribed.record(used(40, at=END - DAY))

    subscribed.renew(END, access=AccessState.ACTIVE)
    subscribed.tick(END + DELAY)
    subscribed.record(used(2, at=END + DAY))
    subscribed.tick(NEXT_END + DELAY)

    assert [part.quantity for part in subscribed.parts()] == [2]


moments = st.lists(st.tuples(st.integers(0, 70 * 24 * 60), st.integers(0, 4 * 24 * 60), st.integers(1, 9)), max_size=30)


@given(moments, st.sampled_from(["hour", "day", "month"]), st.sampled_from(["sum", "count", "max"]), st.integers(0, 20))
def test_every_unit_is_billed_once_at_any_time(stream, window, aggregation, included):
    definition = meter_definition(window=window, aggregation=aggregation, provider_meters={"stripe": "api_calls"})
    subscription = subscription_of(TENANT, period_start=START, period_end=END)
    subscribed = Invoiced(subscription, plan(feature(included=included), meters=[definition]))
    for minute, later, quantity in sorted(stream, key=lambda each: each[0] + each[1]):
        at, now = START + timedelta(minutes=minute), START + timedelta(minutes=minute + later)
        while now >= subscribed.subscription.period_end:
            subscribed.tick(subscribed.subscription.period_end)
            subscribed.renew(subscribed.subscription.period_end)
        subscribed.tick(now)
        try:
            subscribed.record(used(quantity, at=at), now=now)
        except usage.UsageTooLateError:
            continue
    subscribed.tick(NEXT_END + 60 * DAY)

    values = [each.value for each in subscribed.windows.values()]
    assert sum(part.quantity for part in subscribed.parts()) == sum(max(value - included, 0) for value in values)
    dated = [part.at for part in subscribed.parts()]
    assert all(part.at >= START for part in subscribed.parts()), dated
    for window_ in subscribed.windows.values():
        assert len({window_.report_key(part) for part in window_.parts}) == len(window_.parts)


def test_included_units_are_not_billed(subscription):
    subscribed = Invoiced(subscription, plan(feature(included=1000), meters=[DEFINITION]))
    subscribed.record(used(900, at=END - 5 * DAY))
    subscribed.tick(END - EARLY)
    subscribed.record(used(142, at=END - timedelta(minutes=1)))
    subscribed.tick(END + DELAY)

    assert [part.quantity for part in subscribed.parts()] == [42]
    assert [fact.quantity for fact in subscribed.of(UsageAllocated)] == [0, 42]


def lines_of(subscribed, *periods):
    """Returns the lines of the invoices that bill the reported parts of these periods."""
    return [
        InvoicedUsage("api_calls", subscribed.billed(start, end), start, end, f"in_{start:%m}", final=True)
        for start, end in periods
    ]


def report_all(subscribed):
    for id_, window in subscribed.windows.items():
        for part in window.due_parts:
            for event in closed_windows.reported(window, part, "cus_1"):
                subscribed.windows[id_] = closed_windows.evolve(subscribed.windows[id_], event)
    return list(subscribed.windows.values())


def billed_twice(subscription):
    """Returns usage of two periods, with both of them reported."""
    subscribed = Invoiced(subscription)
    subscribed.record(used(7, at=START + DAY))
    subscribed.record(used(5, at=END - DAY))
    subscribed.tick(END + DELAY)
    subscribed.renew(END + DELAY)
    subscribed.record(used(30, at=END + DAY))
    subscribed.tick(NEXT_END + DELAY)
    lines = lines_of(subscribed, (START, END), (END, NEXT_END))
    return report_all(subscribed), lines


def test_reported_usage_equals_the_usage_on_invoices(subscription):
    windows, lines = billed_twice(subscription)

    compared = compare(windows, lines)

    assert [(each.reported, each.invoiced, each.differs) for each in compared] == [(12, 12, False), (30, 30, False)]


def test_usage_that_is_on_no_invoice_or_on_a_wrong_one_is_found(subscription):
    windows, (first, second) = billed_twice(subscription)
    wrong = replace(first, quantity=11)

    assert [each.differs for each in compare(windows, [wrong, second])] == [True, False]
    assert [each.differs for each in compare(windows, [replace(wrong, final=False), second])] == [False, False]
    assert [(each.reported, each.invoice) for each in compare(windows, [second]) if each.differs] == [
        (7, None),
        (5, None),
    ]
    assert compare(windows, []) == []
    assert len(compare(windows, [], ended=True)) == 3


def test_usage_of_an_open_period_is_not_missing_when_another_subscription_is_invoiced(subscription):
    windows, (_, later) = billed_twice(subscription)

    assert compare(windows, [later], open_from=START) == compare(windows, [later])[:1]
    assert len(compare(windows, [], ended=True, open_from=START)) == 3
    assert billing_periods.open_from(Invoiced(subscription).period) == START


BY_PERIOD = meter_definition(provider_meters={"stripe": "api_calls"}).model_copy(update={"by_period": True})


def test_a_subscription_of_the_28th_has_one_allowance_for_one_payment():
    begin, end = datetime(2026, 3, 28, 23, 5, tzinfo=UTC), datetime(2026, 4, 28, 23, 5, tzinfo=UTC)
    subscription = subscription_of(TENANT, period_start=begin, period_end=end)
    by_period = Invoiced(subscription, plan(feature(quota=100), meters=[BY_PERIOD]))
    by_month = Invoiced(subscription, plan(feature(quota=100), meters=[DEFINITION]))

    refusals = {}
    for name, metering in (("period", by_period), ("month", by_month)):
        days = (begin + DAY, begin + 5 * DAY, end - DAY, end)
        refusals[name] = [metering.consume(used(60, at=at)).refusal for at in days]

    assert refusals["period"] == [None, "quota_exceeded", "quota_exceeded", None]
    assert refusals["month"] == [None, None, "quota_exceeded", "quota_exceeded"]
    first, second = by_period.meter.windows
    assert (first.start, first.end, second.start, second.end) == (
        begin,
        end,
        end,
        datetime(2026, 5, 28, 23, 5, tzinfo=UTC),
    )


def test_a_period_that_begins_early_begins_a_window(subscription):
    subscribed = Invoiced(subscription, plan(feature(included=0), meters=[BY_PERIOD]))
    subscribed.record(used(7, at=START + DAY))
    yearly = START + 3 * DAY

    subscribed.sync(yearly, period_start=yearly, period_end=yearly + 365 * DAY)
    subscribed.record(used(5, at=yearly + DAY))
    subscribed.record(used(1, at=yearly - DAY), now=yearly + DAY)
    subscribed.tick(yearly + DELAY)

    assert [(w.start, w.end, w.value) for w in subscribed.meter.windows] == [
        (START, yearly, 8),
        (yearly, yearly + 365 * DAY, 5),
    ]
    assert [part.quantity for part in subscribed.parts()] == [8]


@pytest.mark.parametrize(("first", "billed"), [((39,), [26, 988]), ((2, 3), [988]), ((0,), [988])])
def test_a_period_that_begins_in_the_first_hour_has_an_allowance_of_its_own(subscription, first, billed):
    subscribed = Invoiced(subscription, plan(feature(included=13), meters=[BY_PERIOD]))
    for units in first:
        subscribed.record(used(units, at=START + timedelta(minutes=1)))
    yearly = START + timedelta(minutes=10)

    subscribed.sync(yearly, period_start=yearly, period_end=yearly + 365 * DAY)
    subscribed.tick(yearly + DELAY)
    for units in (0, 1000, 1):
        subscribed.record(used(units, at=yearly + timedelta(minutes=20)))
    subscribed.tick(yearly + 365 * DAY)

    assert [part.quantity for part in subscribed.parts()] == billed


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ((2026, 1, 31), (2026, 2, 28), (2026, 3, 31)),
        ((2026, 12, 15), (2027, 1, 15), (2027, 2, 15)),
        ((2024, 2, 29), (2025, 2, 28), (2026, 2, 28)),
        ((2026, 3, 1), (2026, 3, 8), (2026, 3, 15)),
    ],
)
def test_the_next_period_is_as_long_as_the_last(start, end, expected):
    assert billing_periods.expected_end(*(datetime(*day, tzinfo=UTC) for day in (start, end))) == datetime(
        *expected, tzinfo=UTC
    )


def test_a_grant_lowers_the_bill(subscription):
    subscribed = Invoiced(subscription, plan(feature(included=500), meters=[BY_PERIOD]))
    subscribed.record(used(1400, at=START + DAY))
    (granted, new_set) = entitlements.grant(
        subscribed.plan.entitlements,
        grant_id="grt_" + "1" * 32,
        feature="calls",
        amount=1000,
        valid_from=START,
        valid_until=None,
        reason="launch",
        now=START + 2 * DAY,
    )
    for event in (granted, new_set):
        after = entitlements.evolve(subscribed.plan.entitlements, event)
        subscribed.plan = replace(subscribed.plan, entitlements=after)

    subscribed.tick(END - EARLY)
    assert subscribed.parts() == []
    subscribed.record(used(142, at=END - timedelta(minutes=1)))
    subscribed.tick(END + DELAY)

    assert [part.quantity for part in subscribed.parts()] == [42]


def test_each_part_of_a_window_has_its_own_stable_report_key():
    common = {"tenant_id": TENANT, "meter": "calls", "aggregation": "sum", "value": 1, "records": 1}
    about = {**common, "provider": "stripe", "provider_meter": "m", "status": "due", "start": END, "end": END}
    ids = (f"{TENANT}:calls:2026-03-01T00", f"{TENANT}:calls:2026-04-01T00")
    keys = {ClosedWindow(id=id_, **about).report_key(Part(number, 1, END)) for id_ in ids for number in (0, 1, 2)}

    assert len(keys) == 6
    assert {len(key) for key in keys} == {32}
