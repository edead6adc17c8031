"""Pauses: of the subscription, of its collection, and of a trial without a card."""

from datetime import timedelta

import pytest
import stripe

DAY, MONTH = timedelta(days=1), timedelta(days=32)


def types(events):
    return [event.type for event in events]


def latest(fake, subscription):
    return fake.stripe.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]}).latest_invoice


def test_a_paused_subscription_has_no_periods_until_it_is_resumed(fake, refusal):
    subscription = fake.subscribe()
    fake.middle_of(subscription)
    paused = fake.stripe.subscriptions.pause(subscription.id)

    assert (paused.status, paused.status_details.paused.subscription.type) == ("paused", "pause_requested")
    assert types(fake.events(subscription.id))[-2:] == ["customer.subscription.updated", "customer.subscription.paused"]
    [credit] = fake.stripe.invoice_items.list({"pending": True}).data
    assert credit.amount in range(-1000, -990)
    fake.control.advance_clock(MONTH)
    assert latest(fake, subscription).id == subscription.latest_invoice
    assert refusal(stripe.InvalidRequestError, fake.stripe.subscriptions.pause, subscription.id).status == 400
    resumed = fake.stripe.subscriptions.resume(subscription.id)
    assert (resumed.status, resumed.status_details) == ("active", None)
    assert resumed["items"].data[0].current_period_start >= fake.control.clock()["now"] - 2
    assert latest(fake, subscription).total in range(1000, 1011)
    assert "customer.subscription.resumed" in types(fake.events(subscription.id))
    assert refusal(stripe.InvalidRequestError, fake.stripe.subscriptions.resume, subscription.id).status == 400


def test_pausing_without_credit_and_resuming_in_the_current_period(fake):
    subscription = fake.subscribe()
    fake.stripe.subscriptions.pause(subscription.id, {"bill_for": {"unused_time_from": {"type": "none"}}})
    assert fake.stripe.invoice_items.list().data == []
    resumed = fake.stripe.subscriptions.resume(
        subscription.id, {"billing_cycle_anchor": {"type": "unchanged"}, "proration_behavior": "none"}
    )

    assert resumed["items"].data[0].current_period_end == subscription["items"].data[0].current_period_end
    assert resumed.latest_invoice == subscription.latest_invoice


def test_a_resume_can_depend_on_the_payment(fake):
    subscription = fake.subscribe()
    fake.stripe.subscriptions.pause(subscription.id, {"bill_for": {"unused_time_from": {"type": "none"}}})
    fake.control.set_payment(subscription.customer, "fail")
    resuming = fake.stripe.subscriptions.resume(subscription.id, {"payment_behavior": "resume_on_payment_success"})

    assert resuming.status == "paused"
    fake.control.pay_invoice(resuming.latest_invoice)
    assert fake.stripe.subscriptions.retrieve(subscription.id).status == "active"


@pytest.mark.parametrize(
    ("behaviour", "status"), [("void", "void"), ("keep_as_draft", "draft"), ("mark_uncollectible", "uncollectible")]
)
def test_while_collection_is_paused_invoices_are_not_collected(fake, behaviour, status):
    subscription = fake.subscribe()
    resumes_at = subscription["items"].data[0].current_period_end + 5 * 86_400
    paused = fake.stripe.subscriptions.update(
        subscription.id, {"pause_collection": {"behavior": behaviour, "resumes_at": resumes_at}}
    )

    assert (paused.status, paused.pause_collection.behavior) == ("active", behaviour)
    fake.http.post("/fake/clock/advance", json={"to": resumes_at - 1})
    assert latest(fake, subscription).status == status
    fake.control.advance_clock(DAY)
    going_on = fake.stripe.subscriptions.retrieve(subscription.id)
    assert (going_on.status, going_on.pause_collection) == ("active", None)
    fake.control.advance_clock(MONTH)
    assert latest(fake, subscription).status == "paid"


def test_collection_is_resumed_by_unsetting_pause_collection(fake):
    subscription = fake.subscribe()
    fake.stripe.subscriptions.update(subscription.id, {"pause_collection": {"behavior": "void"}})
    resumed = fake.stripe.subscriptions.update(subscription.id, {"pause_collection": ""})

    assert resumed.pause_collection is None
    fake.control.renew(subscription.id)
    assert latest(fake, subscription).status == "paid"


@pytest.mark.parametrize(("behaviour", "status"), [("pause", "paused"), ("cancel", "canceled")])
def test_a_trial_without_a_card_ends_by_its_settings(fake, behaviour, status):
    settings = {"end_behavior": {"missing_payment_method": behaviour}}
    unpaid = fake.subscribe(card=None, trial_period_days=5, trial_settings=settings)
    paid = fake.subscribe(trial_period_days=5, trial_settings=settings)
    fake.control.advance_clock(6 * DAY)

    ended = fake.stripe.subscriptions.retrieve(unpaid.id)
    assert (ended.status, ended.latest_invoice) == (status, unpaid.latest_invoice)
    assert fake.stripe.subscriptions.retrieve(paid.id).status == "active"
    if status == "paused":
        assert ended.status_details.paused.subscription.type == "trial_end_without_payment_method"
        fake.control.set_payment(unpaid.customer, "succeed")
        assert fake.stripe.subscriptions.resume(unpaid.id).status == "active"


def test_the_end_of_a_trial_is_announced_once_three_days_before(fake):
    subscription = fake.subscribe(trial_period_days=5)
    assert "customer.subscription.trial_will_end" not in types(fake.events(subscription.id))
    fake.control.advance_clock(2 * DAY)
    fake.control.advance_clock(DAY)

    announced = [
        event for event in fake.events(subscription.id) if event.type == "customer.subscription.trial_will_end"
    ]
    assert [event.created for event in announced] == [subscription.trial_end - 3 * 86_400]
    short = fake.subscribe(trial_period_days=1)
    assert "customer.subscription.trial_will_end" in types(fake.events(short.id))


def test_a_trial_is_ended_now_or_updated(fake, refusal):
    subscription = fake.subscribe(trial_period_days=5)
    later = subscription.trial_end + 86_400
    updated = fake.stripe.subscriptions.update(subscription.id, {"trial_end": later})

    assert (updated.status, updated.trial_end, updated["items"].data[0].current_period_end) == (
        "trialing",
        later,
        later,
    )
    ended = fake.stripe.subscriptions.update(subscription.id, {"trial_end": "now"})
    assert (ended.status, latest(fake, subscription).total) == ("active", 2000)
    refused = refusal(
        stripe.InvalidRequestError, fake.stripe.subscriptions.update, subscription.id, {"trial_end": later}
    )
    assert refused.param == "trial_end"
