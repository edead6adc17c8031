"""Time: renewals, failed payments and their retries, and expiry; all by the virtual clock."""

from datetime import timedelta
from itertools import pairwise

import pytest
import stripe
from paybill_stripe_fake.client import FakeControlError

DAY = timedelta(days=1)
MONTH = timedelta(days=32)


def types(events):
    return [event.type for event in events]


def state(fake, subscription):
    """Returns the status of a subscription and of its latest invoice."""
    now = fake.stripe.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]})
    return now.status, now.latest_invoice.status


def period(subscription):
    item = subscription["items"].data[0]
    return item.current_period_start, item.current_period_end


def test_the_clock_only_advances_and_stays_ahead(fake):
    before = fake.control.clock()["now"]
    after = fake.control.advance_clock(10 * DAY)

    assert 864_000 <= after["now"] - before <= 864_002
    assert fake.customer().created >= after["now"]
    for body in ({"seconds": -1}, {"to": before}, {"days": 1000}, {}, {"days": 1, "seconds": 1}):
        assert fake.http.post("/fake/clock/advance", json=body).status_code == 400


def test_a_period_ends_and_the_next_begins_and_is_paid(fake):
    subscription = fake.subscribe()
    old, newest = period(subscription), fake.newest_event()
    fake.control.advance_clock(MONTH)

    renewed = fake.stripe.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]})
    invoice = renewed.latest_invoice
    assert period(renewed)[0] == old[1]
    assert renewed.status == "active"
    assert (invoice.billing_reason, invoice.status, invoice.amount_paid) == ("subscription_cycle", "paid", 2000)
    assert (invoice.period_start, invoice.period_end, invoice.created) == (*old, old[1])
    assert (invoice.lines.data[0].period.start, invoice.lines.data[0].period.end) == period(renewed)
    assert types(fake.events(since=newest)) == [
        "customer.subscription.updated",
        "invoice.created",
        "invoice.finalized",
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "invoice_payment.paid",
        "invoice.updated",
        "invoice.paid",
        "invoice.payment_succeeded",
    ]
    assert {event.request.id for event in fake.events(since=newest)} == {None}


def test_a_year_of_months_is_twelve_invoices_each_at_its_time(fake):
    subscription = fake.subscribe()
    fake.control.advance_clock(timedelta(days=366))

    invoices = fake.stripe.invoices.list({"subscription": subscription.id, "limit": 100}).data
    assert len(invoices) == 13
    bounds = [(line.period.start, line.period.end) for invoice in reversed(invoices) for line in invoice.lines.data]
    assert all(end == start for (_, end), (start, _) in pairwise(bounds))
    assert [invoice.created for invoice in reversed(invoices)] == [start for start, _ in bounds]
    numbers = [int(invoice.number.split("-")[1]) for invoice in reversed(invoices)]
    assert numbers == list(range(1, 14))


def test_renewing_one_subscription_leaves_clock_and_others_unchanged(fake):
    subscription, other = fake.subscribe(), fake.subscribe()
    offset_s = fake.control.clock()["offset_s"]
    renewed = fake.control.renew(subscription.id)

    assert fake.control.clock()["offset_s"] == offset_s
    assert renewed["latest_invoice"] != subscription.latest_invoice
    assert renewed["items"]["data"][0]["current_period_start"] <= fake.control.clock()["now"]
    assert fake.stripe.subscriptions.retrieve(other.id).to_dict() == other.to_dict()


def test_a_failed_renewal_is_past_due_and_paying_makes_it_active_again(fake):
    subscription = fake.subscribe()
    fake.control.set_payment(subscription.customer, "fail")
    newest = fake.newest_event()
    fake.control.renew(subscription.id)

    assert state(fake, subscription) == ("past_due", "open")
    assert fake.stripe.customers.retrieve(subscription.customer).delinquent
    assert types(fake.events(since=newest)) == [
        "customer.subscription.updated",
        "invoice.created",
        "invoice.finalized",
        "payment_intent.created",
        "charge.failed",
        "payment_intent.payment_failed",
        "invoice.updated",
        "invoice.payment_failed",
        "customer.updated",
        "customer.subscription.updated",
    ]
    newest = fake.newest_event()
    fake.control.set_payment(subscription.customer, "succeed")
    fake.stripe.invoices.pay(fake.stripe.subscriptions.retrieve(subscription.id).latest_invoice)
    assert state(fake, subscription) == ("active", "paid")
    assert not fake.stripe.customers.retrieve(subscription.customer).delinquent
    recovered = fake.events(since=newest)
    assert [kind for kind in types(recovered) if kind.startswith("invoice.")] == [
        "invoice.updated",
        "invoice.paid",
        "invoice.payment_succeeded",
    ]
    changed = next(event for event in recovered if event.type == "customer.subscription.updated")
    assert changed.data.previous_attributes.to_dict() == {"status": "past_due"}


def test_a_failed_renewal_is_retried_until_it_is_paid(fake):
    subscription = fake.subscribe()
    fake.control.set_payment(subscription.customer, "fail")
    renewed = fake.control.renew(subscription.id)

    first = fake.stripe.invoices.retrieve(renewed["latest_invoice"])
    assert (first.attempt_count, first.next_payment_attempt) == (1, first.created + 3 * 86_400)
    fake.control.advance_clock(4 * DAY)
    second = fake.stripe.invoices.retrieve(first.id)
    assert (second.attempt_count, second.next_payment_attempt) == (2, first.created + 8 * 86_400)
    fake.control.set_payment(subscription.customer, "succeed")
    fake.control.advance_clock(5 * DAY)
    assert fake.stripe.invoices.retrieve(first.id).attempt_count == 3
    assert state(fake, subscription) == ("active", "paid")


def test_after_the_last_retry_it_is_cancelled(fake):
    subscription = fake.subscribe()
    fake.control.set_payment(subscription.customer, "fail")
    fake.control.renew(subscription.id)
    fake.control.advance_clock(16 * DAY)

    exhausted = fake.stripe.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]})
    assert (exhausted.status, exhausted.cancellation_details.reason) == ("canceled", "payment_failed")
    assert (exhausted.latest_invoice.attempt_count, exhausted.latest_invoice.next_payment_attempt) == (4, None)
    assert types(fake.events(subscription.id))[-1] == "customer.subscription.deleted"


@pytest.mark.parametrize("policy", ["unpaid", "past_due"])
def test_after_the_last_retry_the_policy_decides(start, policy):
    fake = start("--retry-days", "1", "--when-retries-fail", policy)
    subscription = fake.subscribe()
    fake.control.set_payment(subscription.customer, "fail")
    fake.control.renew(subscription.id)
    fake.control.advance_clock(2 * DAY)

    exhausted = fake.stripe.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]})
    assert (exhausted.status, exhausted.latest_invoice.status) == (policy, "open")
    assert exhausted.latest_invoice.next_payment_attempt is None
    if policy == "past_due":
        fake.control.pay_invoice(exhausted.latest_invoice.id)
        assert state(fake, subscription) == ("active", "paid")
    else:
        check_that_new_invoices_stay_drafts(fake, subscription)


def check_that_new_invoices_stay_drafts(fake, subscription):
    fake.control.advance_clock(MONTH)
    assert state(fake, subscription) == ("unpaid", "draft")
    fake.control.set_payment(subscription.customer, "succeed")
    older = fake.stripe.invoices.list({"subscription": subscription.id, "status": "open"}).data[0]
    fake.stripe.invoices.pay(older.id)
    assert state(fake, subscription) == ("unpaid", "draft")
    fake.stripe.invoices.pay(fake.stripe.subscriptions.retrieve(subscription.id).latest_invoice)
    assert state(fake, subscription) == ("active", "paid")


def test_manual_attempts_do_not_use_up_retries(fake, refusal):
    subscription = fake.subscribe()
    fake.control.set_payment(subscription.customer, "fail")
    invoice = fake.control.renew(subscription.id)["latest_invoice"]
    before = fake.stripe.invoices.retrieve(invoice)
    declined = refusal(stripe.CardError, fake.stripe.invoices.pay, invoice)
    after = fake.stripe.invoices.retrieve(invoice)

    assert declined.code == "card_declined"
    assert (after.attempt_count, after.next_payment_attempt) == (before.attempt_count, before.next_payment_attempt)
    assert types(fake.events(invoice)).count("invoice.payment_failed") == 2


def test_an_invoice_can_be_paid_out_of_band_or_by_another_card(fake):
    for paying in ({"paid_out_of_band": True}, {"payment_method": "pm_card_visa"}):
        subscription = fake.subscribe()
        fake.control.set_payment(subscription.customer, "fail")
        invoice = fake.control.renew(subscription.id)["latest_invoice"]

        assert fake.stripe.invoices.pay(invoice, paying).status == "paid"
        assert state(fake, subscription) == ("active", "paid")


def test_a_subscription_ends_at_the_period_end_when_scheduled(fake):
    by_time, by_hand = fake.subscribe(), fake.subscribe()
    for subscription in (by_time, by_hand):
        fake.stripe.subscriptions.update(subscription.id, {"cancel_at_period_end": True})
    fake.control.renew(by_hand.id)
    assert types(fake.events(by_hand.id))[-1] == "customer.subscription.deleted"
    fake.control.advance_clock(MONTH)

    assert types(fake.events(by_time.id)) == ["customer.subscription.deleted"]
    for subscription in (by_time, by_hand):
        ended = fake.stripe.subscriptions.retrieve(subscription.id)
        assert (ended.status, ended.cancel_at_period_end) == ("canceled", True)
        assert ended.latest_invoice == subscription.latest_invoice
    assert fake.stripe.subscriptions.retrieve(by_time.id).ended_at == period(by_time)[1]


def test_a_subscription_ends_within_a_period_at_a_scheduled_time(fake):
    subscription = fake.subscribe()
    moment = subscription.created + 5 * 86_400
    fake.stripe.subscriptions.update(subscription.id, {"cancel_at": moment})
    fake.control.advance_clock(6 * DAY)

    assert fake.stripe.subscriptions.retrieve(subscription.id).ended_at == moment


def test_a_trial_ends_in_a_paid_period(fake):
    subscription = fake.subscribe(trial_period_days=10, expand=["latest_invoice"])
    assert (subscription.status, subscription.latest_invoice.total) == ("trialing", 0)
    fake.control.advance_clock(11 * DAY)

    renewed = fake.stripe.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]})
    assert (renewed.status, renewed.latest_invoice.total) == ("active", 2000)
    assert period(renewed)[0] == subscription.trial_end
    assert renewed.billing_cycle_anchor == subscription.trial_end


def test_a_trial_without_a_card_ends_past_due(fake):
    subscription = fake.subscribe(card=None, trial_period_days=3)
    fake.control.advance_clock(4 * DAY)

    assert state(fake, subscription) == ("past_due", "open")


def test_an_unpaid_first_invoice_expires_the_subscription_after_a_day(fake):
    subscription = fake.subscribe("pm_card_chargeCustomerFail")
    fake.control.advance_clock(DAY)

    assert state(fake, subscription) == ("incomplete_expired", "void")
    assert fake.stripe.subscriptions.list({"customer": subscription.customer}).data == []
    with pytest.raises(FakeControlError):
        fake.control.renew(subscription.id)


def test_a_cancelled_subscription_is_no_longer_collected(fake):
    subscription = fake.subscribe()
    fake.control.set_payment(subscription.customer, "fail")
    invoice = fake.control.renew(subscription.id)["latest_invoice"]
    fake.stripe.subscriptions.cancel(subscription.id)
    fake.control.advance_clock(60 * DAY)

    owed = fake.stripe.invoices.retrieve(invoice)
    assert (owed.status, owed.attempt_count, owed.next_payment_attempt, owed.auto_advance) == ("open", 1, None, False)
    fake.control.pay_invoice(invoice)
    assert state(fake, subscription) == ("canceled", "paid")
