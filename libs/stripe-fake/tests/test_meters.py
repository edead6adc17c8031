"""Meters: usage recorded once, aggregated, and billed after the period."""

from datetime import timedelta

import pytest
import stripe

HOUR, DAY, MONTH = timedelta(hours=1), timedelta(days=1), timedelta(days=32)


@pytest.fixture
def meter(fake):
    return metered(fake)


def metered(fake, formula="sum", name="api_calls"):
    aggregation = {"default_aggregation": {"formula": formula}}
    return fake.stripe.billing.meters.create({"display_name": "Calls", "event_name": name, **aggregation})


def price_of(fake, meter, unit="0.5"):
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter.id}
    data = {"currency": "usd", "unit_amount_decimal": unit, "product_data": {"name": "Calls"}, "recurring": recurring}
    return fake.stripe.prices.create(data)


def use(fake, customer, value, name="api_calls", **more):
    payload = {"stripe_customer_id": customer, "value": str(value)}
    return fake.stripe.billing.meter_events.create({"event_name": name, "payload": payload, **more})


def used(fake, meter, customer, **more):
    now = fake.control.clock()["now"]
    bounds = {"start_time": now - now % 60 - 40 * 86_400, "end_time": now - now % 60 + 600}
    return fake.stripe.billing.meters.event_summaries.list(meter.id, {"customer": customer, **bounds, **more}).data


def latest(fake, subscription):
    return fake.stripe.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]}).latest_invoice


def test_usage_of_a_period_is_billed_when_it_ends(fake, meter):
    subscription = fake.subscribe(items=[{"price": fake.price().id}, {"price": price_of(fake, meter).id}])
    for value in (100, 21, "0.5"):
        use(fake, subscription.customer, value)
    use(fake, fake.customer().id, 1000)

    assert latest(fake, subscription).total == 2000
    assert "quantity" not in subscription["items"].data[1].to_dict()
    preview = fake.stripe.invoices.create_preview({"subscription": subscription.id})
    fake.control.advance_clock(MONTH)
    invoice = latest(fake, subscription)
    assert [(line.amount, str(line.quantity_decimal)) for line in invoice.lines] == [(2000, "1"), (61, "121.5")]
    line = invoice.lines.data[1]
    item = subscription["items"].data[1]
    assert (line.period.start, line.period.end) == (item.current_period_start, item.current_period_end)
    assert [one.amount for one in preview.lines] == [2000, 61]
    fake.control.advance_clock(MONTH)
    assert latest(fake, subscription).total == 2000


def test_the_same_identifier_counts_once_within_a_day(fake, meter, refusal):
    customer = fake.customer().id
    use(fake, customer, 5, identifier="one")
    payload = {"stripe_customer_id": customer, "value": "5"}
    again = {"event_name": "api_calls", "payload": payload, "identifier": "one"}
    refused = refusal(stripe.InvalidRequestError, fake.stripe.billing.meter_events.create, again)

    assert (refused.status, "An event already exists with identifier one" in refused.text) == (400, True)
    assert [summary.aggregated_value for summary in used(fake, meter, customer)] == [5]
    fake.control.advance_clock(DAY)
    use(fake, customer, 5, identifier="one")
    assert [summary.aggregated_value for summary in used(fake, meter, customer)] == [10]


def test_usage_older_than_35_days_is_refused(fake, meter, refusal):
    customer, now = fake.customer().id, fake.control.clock()["now"]
    use(fake, customer, 1, timestamp=now - 35 * 86_400 + 60)
    use(fake, customer, 1, timestamp=now + 290)

    for moment, code in ((now - 35 * 86_400 - 60, "timestamp_too_far_in_past"), (now + 360, "timestamp_in_future")):
        payload = {"stripe_customer_id": customer, "value": "1"}
        params = {"event_name": "api_calls", "payload": payload, "timestamp": moment}
        refused = refusal(stripe.InvalidRequestError, fake.stripe.billing.meter_events.create, params)
        assert (refused.code, refused.param) == (code, "timestamp")
    assert [summary.aggregated_value for summary in used(fake, meter, customer)] == [2]


@pytest.mark.parametrize(("formula", "expected"), [("sum", 7), ("count", 3), ("last", 3)])
def test_a_meter_aggregates_by_its_formula(fake, formula, expected):
    meter, customer, now = metered(fake, formula), fake.customer().id, fake.control.clock()["now"]
    for value, at in ((3, now), (5, now - 60), (-1, now - 120)):
        use(fake, customer, value, timestamp=at)

    assert [summary.aggregated_value for summary in used(fake, meter, customer)] == [expected]


def test_usage_is_grouped_by_hour_and_by_day(fake, meter):
    customer, now = fake.customer().id, fake.control.clock()["now"]
    for hours in (0, 1, 1, 30):
        use(fake, customer, 1, timestamp=now - hours * 3600)

    by_hour = used(fake, meter, customer, value_grouping_window="hour")
    assert [summary.aggregated_value for summary in by_hour] == [1, 2, 1]
    assert {(one.end_time - one.start_time, one.start_time % 3600) for one in by_hour[1:]} == {(3600, 0)}
    assert sum(one.aggregated_value for one in used(fake, meter, customer, value_grouping_window="day")) == 4


def test_an_event_is_cancelled(fake, meter, refusal):
    customer = fake.customer().id
    use(fake, customer, 5, identifier="wrong")
    received = {"event_name": "api_calls", "type": "cancel", "cancel": {"identifier": "wrong"}}
    assert fake.stripe.billing.meter_event_adjustments.create(received).cancel.identifier == "wrong"

    assert [summary.aggregated_value for summary in used(fake, meter, customer)] == [0]
    unknown = {**received, "cancel": {"identifier": "nothing"}}
    refused = refusal(stripe.InvalidRequestError, fake.stripe.billing.meter_event_adjustments.create, unknown)
    assert refused.code == "resource_missing"


def test_a_meter_is_deactivated_and_reactivated(fake, meter, refusal):
    meters, customer = fake.stripe.billing.meters, fake.customer().id
    assert meters.deactivate(meter.id).status == "inactive"
    params = {"event_name": "api_calls", "payload": {"stripe_customer_id": customer, "value": "1"}}
    assert refusal(stripe.InvalidRequestError, fake.stripe.billing.meter_events.create, params).code == "no_meter"

    assert [one.id for one in meters.list({"status": "inactive"})] == [meter.id]
    assert meters.reactivate(meter.id).status == "active"
    use(fake, customer, 1)
    assert meters.update(meter.id, {"display_name": "API calls"}).display_name == "API calls"
    twin = {"display_name": "x", "event_name": "api_calls", "default_aggregation": {"formula": "sum"}}
    assert refusal(stripe.InvalidRequestError, meters.create, twin).param == "event_name"


def test_usage_on_trial_is_free_and_usage_before_a_cancellation_is_billed(fake, meter):
    subscription = fake.subscribe(items=[{"price": price_of(fake, meter, "100").id}], trial_period_days=3)
    use(fake, subscription.customer, 7)
    fake.control.advance_clock(4 * DAY)
    assert latest(fake, subscription).total == 0
    use(fake, subscription.customer, 2)
    fake.stripe.subscriptions.update(subscription.id, {"cancel_at_period_end": True})
    fake.control.advance_clock(MONTH)

    ended = fake.stripe.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]})
    assert (ended.status, ended.latest_invoice.total) == ("canceled", 200)
    now = fake.subscribe(items=[{"price": price_of(fake, meter, "100").id}])
    use(fake, now.customer, 3, timestamp=now.created)
    fake.control.advance_clock(HOUR)
    fake.stripe.subscriptions.cancel(now.id, {"invoice_now": True})
    assert latest(fake, now).total == 300


@pytest.mark.parametrize(
    "recurring",
    [
        {"interval": "month", "usage_type": "metered"},
        {"interval": "month", "meter": "mtr_nothing", "usage_type": "metered"},
        {"interval": "month", "meter": "mtr_nothing"},
    ],
)
def test_a_metered_price_requires_a_meter(fake, refusal, recurring):
    refused = refusal(stripe.InvalidRequestError, lambda: fake.price(recurring=recurring))

    assert refused.param == "recurring[meter]"


@pytest.mark.parametrize("payload", [{}, {"value": "1"}, {"stripe_customer_id": "c"}, {"value": "x"}])
def test_invalid_usage_is_refused(fake, meter, refusal, payload):
    params = {"event_name": "api_calls", "payload": payload}

    assert refusal(stripe.InvalidRequestError, fake.stripe.billing.meter_events.create, params).status == 400


def test_metered_items_accept_no_quantity(fake, meter, refusal):
    items = [{"price": price_of(fake, meter).id, "quantity": 2}]

    assert refusal(stripe.InvalidRequestError, lambda: fake.subscribe(items=items)).param == "items[0][quantity]"


def test_an_invoice_that_is_finalised_later_has_the_usage_reported_until_then(fake, meter):
    fake.control.finalize_after(HOUR)
    subscription = fake.subscribe(items=[{"price": fake.price().id}, {"price": price_of(fake, meter).id}])
    use(fake, subscription.customer, 100)
    end = subscription["items"].data[0].current_period_end
    fake.control.advance_clock(timedelta(seconds=end - fake.control.clock()["now"] + 60))

    draft = latest(fake, subscription)
    use(fake, subscription.customer, 20, timestamp=end - 1)
    use(fake, subscription.customer, 7)
    fake.control.advance_clock(HOUR)

    assert (draft.status, draft.automatically_finalizes_at, draft.total) == ("draft", end + 3600, 2050)
    assert (latest(fake, subscription).status, latest(fake, subscription).total) == ("paid", 2060)
    fake.control.advance_clock(MONTH)
    assert latest(fake, subscription).lines.data[1].quantity == 7


def test_a_price_for_a_block_charges_a_block_that_has_begun_as_a_whole(fake, meter):
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter.id}
    blocks = {"unit_amount": 200, "transform_quantity": {"divide_by": 100, "round": "up"}}
    data = {"currency": "usd", "product_data": {"name": "Calls"}, "recurring": recurring, **blocks}
    price = fake.stripe.prices.create(data)
    subscription = fake.subscribe(items=[{"price": fake.price().id}, {"price": price.id}])
    use(fake, subscription.customer, 301)

    fake.control.advance_clock(MONTH)

    assert price.transform_quantity.divide_by == 100
    assert [(line.amount, line.quantity) for line in latest(fake, subscription).lines] == [(2000, 1), (800, 301)]


def test_usage_of_a_replaced_metered_item_is_billed_once_and_at_the_old_price(fake, meter):
    old, new = price_of(fake, meter, "10"), price_of(fake, meter, "100")
    subscription = fake.subscribe(items=[{"price": fake.price().id}, {"price": old.id}])
    use(fake, subscription.customer, 7)
    fake.control.advance_clock(HOUR)
    metered_item = subscription["items"].data[1].id
    items = [{"id": metered_item, "deleted": True}, {"price": new.id}]
    fake.stripe.subscriptions.update(subscription.id, {"items": items, "proration_behavior": "always_invoice"})

    now = latest(fake, subscription)
    assert [(line.amount, line.quantity) for line in now.lines] == [(70, 7)]
    use(fake, subscription.customer, 2)
    fake.control.advance_clock(MONTH)
    assert sorted((line.amount, line.quantity) for line in latest(fake, subscription).lines) == [(200, 2), (2000, 1)]


def test_usage_until_a_scheduled_change_is_billed_at_the_old_price(fake, meter):
    fake.control.finalize_after(HOUR)
    old, new, plan = price_of(fake, meter, "10"), price_of(fake, meter, "100"), fake.price()
    subscription = fake.subscribe(items=[{"price": plan.id}, {"price": old.id}])
    schedule = fake.stripe.subscription_schedules.create({"from_subscription": subscription.id})
    first = {"start_date": schedule.phases[0].start_date, "end_date": schedule.phases[0].end_date}
    phases = [
        first | {"items": [{"price": plan.id, "quantity": 1}, {"price": old.id}]},
        {"items": [{"price": plan.id, "quantity": 1}, {"price": new.id}]},
    ]
    fake.stripe.subscription_schedules.update(schedule.id, {"phases": phases, "end_behavior": "release"})
    use(fake, subscription.customer, 7)
    end = subscription["items"].data[0].current_period_end
    fake.control.advance_clock(timedelta(seconds=end - fake.control.clock()["now"] + 60))
    use(fake, subscription.customer, 3, timestamp=end - 1)
    fake.control.advance_clock(HOUR)

    amounts = [(line.amount, line.quantity) for line in latest(fake, subscription).lines if line.quantity]
    assert sorted(amounts) == [(100, 10), (2000, 1)]
