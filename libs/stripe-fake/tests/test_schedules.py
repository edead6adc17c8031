"""Subscription schedules: planned changes, by the virtual clock."""

from datetime import timedelta

import pytest
import stripe

DAY, MONTH = timedelta(days=1), timedelta(days=32)


def types(events):
    return [event.type for event in events]


def latest(fake, subscription_id):
    return fake.stripe.subscriptions.retrieve(subscription_id, {"expand": ["latest_invoice"]}).latest_invoice


def phase_of(phase):
    """Returns a phase in the form that an update expects."""
    items = [{"price": item.price, "quantity": item.quantity} for item in phase["items"]]
    return {"items": items, "start_date": phase.start_date, "end_date": phase.end_date}


@pytest.fixture
def scheduled(fake):
    """Returns a subscription that changes to a higher price when its period ends."""
    subscription, dearer = fake.subscribe(), fake.price(5000)
    schedules = fake.stripe.subscription_schedules
    schedule = schedules.create({"from_subscription": subscription.id})
    next_phase = {"items": [{"price": dearer.id, "quantity": 2}], "duration": {"interval": "month"}}
    updated = schedules.update(
        schedule.id, {"phases": [phase_of(schedule.phases[0]), next_phase], "end_behavior": "release"}
    )
    return subscription, updated, dearer


def test_a_schedule_made_from_a_subscription_is_its_period(fake, refusal):
    subscription = fake.subscribe()
    schedule = fake.stripe.subscription_schedules.create({"from_subscription": subscription.id})

    item = subscription["items"].data[0]
    [phase] = schedule.phases
    assert (schedule.status, schedule.subscription, schedule.end_behavior) == ("active", subscription.id, "release")
    assert (phase.start_date, phase.end_date) == (item.current_period_start, item.current_period_end)
    held = fake.stripe.subscriptions.retrieve(subscription.id, {"expand": ["schedule"]})
    assert held.schedule.id == schedule.id
    again = {"from_subscription": subscription.id}
    assert refusal(stripe.InvalidRequestError, fake.stripe.subscription_schedules.create, again).status == 400
    ending = {"cancel_at_period_end": True}
    refused = refusal(stripe.InvalidRequestError, fake.stripe.subscriptions.update, subscription.id, ending)
    assert "managed by the subscription schedule" in refused.text


def test_a_schedule_of_a_deleted_customer_never_begins(fake):
    customer, price = fake.stripe.customers.create(), fake.price()
    starts = customer.created + int(DAY.total_seconds())
    schedule = fake.stripe.subscription_schedules.create(
        {"customer": customer.id, "start_date": starts, "phases": [{"items": [{"price": price.id}], "iterations": 1}]}
    )
    fake.stripe.customers.delete(customer.id)
    fake.control.advance_clock(MONTH)

    cancelled = fake.stripe.subscription_schedules.retrieve(schedule.id)
    assert (cancelled.status, cancelled.subscription) == ("canceled", None)


def test_a_change_at_the_end_of_the_period_applies_when_the_clock_passes_it(fake, scheduled):
    subscription, schedule, dearer = scheduled
    preview = fake.stripe.invoices.create_preview({"subscription": subscription.id})
    before = fake.stripe.subscriptions.retrieve(subscription.id)
    fake.control.advance_clock(MONTH)

    assert [item.price.id for item in before["items"]] == [item.price.id for item in subscription["items"]]
    after = fake.stripe.subscriptions.retrieve(subscription.id)
    assert [(item.price.id, item.quantity) for item in after["items"]] == [(dearer.id, 2)]
    invoice = latest(fake, subscription.id)
    assert (invoice.billing_reason, invoice.total, invoice.status) == ("subscription_cycle", 10_000, "paid")
    assert [line.amount for line in preview.lines.data] == [line.amount for line in invoice.lines.data] == [10_000]
    now = fake.stripe.subscription_schedules.retrieve(schedule.id)
    assert now.current_phase.to_dict() == {
        "start_date": subscription["items"].data[0].current_period_end,
        "end_date": now.phases[1].end_date,
    }


def test_a_preview_of_a_schedule_takes_other_phases_and_changes_nothing(fake, scheduled, refusal):
    subscription, schedule, dearer = scheduled
    other = {"items": [{"price": dearer.id, "quantity": 3}], "duration": {"interval": "month"}}
    phases = {"phases": [phase_of(schedule.phases[0]), other], "end_behavior": "release"}

    as_planned = fake.stripe.invoices.create_preview({"schedule": schedule.id})
    changed = fake.stripe.invoices.create_preview({"schedule": schedule.id, "schedule_details": phases})

    assert (as_planned.total, changed.total) == (10_000, 15_000)
    assert fake.stripe.subscription_schedules.retrieve(schedule.id).to_dict() == schedule.to_dict()
    both = {"schedule": schedule.id, "subscription": subscription.id}
    refused = refusal(stripe.InvalidRequestError, fake.stripe.invoices.create_preview, both)
    assert (refused.status, refused.param) == (400, "schedule")


def test_after_its_last_phase_a_schedule_releases_the_subscription(fake, scheduled):
    subscription, schedule, dearer = scheduled
    fake.control.advance_clock(2 * MONTH)

    over = fake.stripe.subscription_schedules.retrieve(schedule.id)
    going_on = fake.stripe.subscriptions.retrieve(subscription.id)
    assert (over.status, over.current_phase, over.completed_at) == ("completed", None, schedule.phases[1].end_date)
    assert (going_on.status, going_on.schedule, going_on["items"].data[0].price.id) == ("active", None, dearer.id)
    happened = types(fake.events(schedule.id))
    assert "subscription_schedule.completed" in happened
    assert happened.count("subscription_schedule.expiring") == 1


def test_a_schedule_can_end_the_subscription(fake):
    subscription = fake.subscribe()
    schedule = fake.stripe.subscription_schedules.create({"from_subscription": subscription.id})
    fake.stripe.subscription_schedules.update(schedule.id, {"end_behavior": "cancel"})
    fake.control.advance_clock(MONTH)

    ended = fake.stripe.subscriptions.retrieve(subscription.id)
    assert (ended.status, ended.ended_at) == ("canceled", schedule.phases[0].end_date)
    assert ended.latest_invoice == subscription.latest_invoice


def test_a_phase_may_change_the_interval(fake):
    subscription, yearly = fake.subscribe(), fake.price(20_000, recurring={"interval": "year"})
    schedule = fake.stripe.subscription_schedules.create({"from_subscription": subscription.id})
    next_phase = {"items": [{"price": yearly.id}], "duration": {"interval": "year"}}
    fake.stripe.subscription_schedules.update(schedule.id, {"phases": [phase_of(schedule.phases[0]), next_phase]})
    fake.control.advance_clock(MONTH)

    item = fake.stripe.subscriptions.retrieve(subscription.id)["items"].data[0]
    assert item.current_period_start == schedule.phases[0].end_date
    assert item.current_period_end - item.current_period_start >= 365 * 86_400
    assert latest(fake, subscription.id).total == 20_000


def test_a_phase_that_begins_within_a_period_is_prorated(fake):
    subscription, dearer = fake.subscribe(), fake.price(4000)
    schedule = fake.stripe.subscription_schedules.create({"from_subscription": subscription.id})
    phase = phase_of(schedule.phases[0])
    middle = (phase["start_date"] + phase["end_date"]) // 2
    next_phase = {
        "items": [{"price": dearer.id}],
        "end_date": phase["end_date"],
        "proration_behavior": "always_invoice",
    }
    fake.stripe.subscription_schedules.update(schedule.id, {"phases": [{**phase, "end_date": middle}, next_phase]})
    fake.control.advance_clock(timedelta(days=20))

    assert [line.amount for line in latest(fake, subscription.id).lines] == [-1000, 2000]


def test_changes_of_the_current_phase_apply_at_once(fake):
    subscription = fake.subscribe()
    schedule = fake.stripe.subscription_schedules.create({"from_subscription": subscription.id})
    phase = phase_of(schedule.phases[0])
    phase["items"][0]["quantity"] = 4
    fake.stripe.subscription_schedules.update(schedule.id, {"phases": [phase], "proration_behavior": "none"})

    assert fake.stripe.subscriptions.retrieve(subscription.id)["items"].data[0].quantity == 4


def test_a_released_schedule_changes_nothing(fake, scheduled, refusal):
    subscription, schedule, _ = scheduled
    released = fake.stripe.subscription_schedules.release(schedule.id)
    fake.control.advance_clock(MONTH)

    assert (released.status, released.released_subscription, released.subscription) == (
        "released",
        subscription.id,
        None,
    )
    going_on = fake.stripe.subscriptions.retrieve(subscription.id)
    assert (going_on.schedule, latest(fake, subscription.id).total) == (None, 2000)
    again = refusal(stripe.InvalidRequestError, fake.stripe.subscription_schedules.release, schedule.id)
    assert "released" in again.text


def test_cancelling_a_schedule_ends_the_subscription_and_the_other_way_round(fake, scheduled):
    subscription, schedule, _ = scheduled
    cancelled = fake.stripe.subscription_schedules.cancel(schedule.id)
    assert (cancelled.status, fake.stripe.subscriptions.retrieve(subscription.id).status) == ("canceled", "canceled")

    other = fake.subscribe()
    schedule = fake.stripe.subscription_schedules.create({"from_subscription": other.id})
    fake.stripe.subscriptions.cancel(other.id)
    assert fake.stripe.subscription_schedules.retrieve(schedule.id).status == "canceled"
    assert types(fake.events(schedule.id))[-1] == "subscription_schedule.canceled"


def test_an_unpaid_subscription_aborts_its_schedule(start):
    fake = start("--retry-days", "1")
    subscription = fake.subscribe()
    schedule = fake.stripe.subscription_schedules.create({"from_subscription": subscription.id})
    next_phase = {"items": [{"price": subscription["items"].data[0].price.id, "quantity": 2}]}
    fake.stripe.subscription_schedules.update(
        schedule.id, {"phases": [phase_of(schedule.phases[0]), {**next_phase, "iterations": 3}]}
    )
    fake.control.set_payment(subscription.customer, "fail")
    fake.control.advance_clock(MONTH + 2 * DAY)

    assert types(fake.events(schedule.id))[-1] == "subscription_schedule.aborted"


def test_a_schedule_starts_its_subscription_at_its_time(fake, refusal):
    price, now = fake.price(), fake.control.clock()["now"]
    phases = [{"items": [{"price": price.id}], "iterations": 2}, {"items": [{"price": price.id, "quantity": 3}]}]
    params = {"customer": fake.customer().id, "start_date": now + 5 * 86_400, "phases": phases}
    schedule = fake.stripe.subscription_schedules.create(params)

    assert (schedule.status, schedule.subscription) == ("not_started", None)
    fake.control.advance_clock(6 * DAY)
    begun = fake.stripe.subscription_schedules.retrieve(schedule.id, {"expand": ["subscription"]})
    assert (begun.status, begun.subscription.status) == ("active", "active")
    assert begun.subscription.created == now + 5 * 86_400
    fake.control.advance_clock(timedelta(days=62))
    assert latest(fake, begun.subscription.id).total == 6000
    listed = fake.stripe.subscription_schedules.list({"customer": params["customer"]}).data
    assert [one.id for one in listed] == [schedule.id]
    early = {**params, "start_date": now - 1}
    assert refusal(stripe.InvalidRequestError, fake.stripe.subscription_schedules.create, early).param == "start_date"


def test_a_schedule_shows_a_trial_and_continues_after_it(fake):
    subscription, dearer = fake.subscribe(trial_period_days=10), fake.price(5000)
    schedule = fake.stripe.subscription_schedules.create({"from_subscription": subscription.id})
    [phase] = schedule.phases
    assert (phase.trial_end, phase.end_date) == (subscription.trial_end, subscription.trial_end)
    phases = [{**phase_of(phase), "trial_end": phase.trial_end}, {"items": [{"price": dearer.id}]}]
    fake.stripe.subscription_schedules.update(schedule.id, {"phases": phases})

    assert fake.stripe.subscriptions.retrieve(subscription.id).status == "trialing"
    fake.control.advance_clock(timedelta(days=11))
    after = fake.stripe.subscriptions.retrieve(subscription.id)
    assert (after.status, after["items"].data[0].price.id) == ("active", dearer.id)
    assert latest(fake, subscription.id).total == 5000


def test_a_phase_without_a_trial_ends_it_and_another_time_changes_it(fake):
    subscription = fake.subscribe(trial_period_days=10)
    schedule = fake.stripe.subscription_schedules.create({"from_subscription": subscription.id})
    phase, update = phase_of(schedule.phases[0]), fake.stripe.subscription_schedules.update
    sooner = subscription.trial_end - 86_400
    update(schedule.id, {"phases": [{**phase, "trial_end": sooner}]})

    assert fake.stripe.subscriptions.retrieve(subscription.id).trial_end == sooner
    update(schedule.id, {"phases": [phase]})
    assert fake.stripe.subscriptions.retrieve(subscription.id).status == "active"
    assert latest(fake, subscription.id).total == 2000


@pytest.mark.parametrize(
    "phases",
    [
        [],
        [{"items": []}],
        [{"items": [{"price": "price_nothing"}], "start_date": "now"}],
    ],
)
def test_invalid_phases_are_refused(fake, refusal, phases):
    params = {"customer": fake.customer().id, "phases": phases}

    assert refusal(stripe.InvalidRequestError, fake.stripe.subscription_schedules.create, params).status == 400


def test_an_update_must_contain_the_current_phase(fake, scheduled, refusal):
    _, schedule, dearer = scheduled
    update = fake.stripe.subscription_schedules.update
    unanchored = {"phases": [{"items": [{"price": dearer.id}]}]}
    changed = {"phases": [{"items": [{"price": dearer.id}], "start_date": schedule.phases[0].start_date + 60}]}

    assert "anchor" in refusal(stripe.InvalidRequestError, update, schedule.id, unanchored).text
    assert "start date of the current phase" in refusal(stripe.InvalidRequestError, update, schedule.id, changed).text
