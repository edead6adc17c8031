"""Property: any subset, order and repetition of a subscription's events converges to the provider's state."""

from datetime import UTC, datetime

import recorded
from billing_samples import ACCOUNT, CATALOGUE, NOW, TENANT
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paybill_billing.providers.stripe.mappers import attempt, subscription_snapshot
from paybill_billing.subscriptions.domain import payments, subscriptions
from paybill_billing.subscriptions.domain.entitling import ENTITLING
from paybill_billing.subscriptions.domain.grace import FailedCollection
from stripe_model import HAPPENINGS, Stripe

START = int(NOW.timestamp())
SHAPES = (lambda shape: shape, recorded.current, recorded.of_2020, recorded.of_2017)


class Billing:
    """Billing of one subscription in memory: fires timers and decides syncs."""

    def __init__(self):
        self.state = None
        self.failed = {}
        self.facts = 0

    def sync(self, shown, at, received=()):
        """Syncs the subscription as it is at `at`, because of these events."""
        now = datetime.fromtimestamp(at, UTC)
        self.pass_time(now)
        failures = []
        for event in received:
            if event.type == "invoice.payment_failed":
                failure = attempt(event.id, event.object)
                failures.append(FailedCollection(failure.invoice, datetime.fromtimestamp(event.created, UTC)))
                emitted = payments.record_failure(
                    self.failed.get(event.id), failure, tenant_id=TENANT, subscription_id="sub_" + 32 * "1"
                )
                for fact in emitted:
                    self.failed[event.id] = payments.evolve(self.failed.get(event.id), fact)
                    self.facts += 1
        found = subscription_snapshot(shown)
        sold = subscriptions.pinned_plan(CATALOGUE, ACCOUNT, self.state, found)
        self._fold(
            subscriptions.sync(
                self.state, found, tenant_id=TENANT, provider="stripe", pinned=sold, failures=failures, now=now
            )
        )

    def pass_time(self, now):
        """Fires the timers that are due by then, each at its own time."""
        while self.state is not None and self.state.due is not None and self.state.due <= now:
            self._fold(subscriptions.on_time(self.state, self.state.due))

    def _fold(self, emitted):
        for event in emitted:
            self.state = subscriptions.evolve(self.state, event)


def happened(whats, trial_days):
    stripe = Stripe(START, trial_days)
    stripe.happen("days_pass")
    for what in whats:
        stripe.happen(what)
    return stripe


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(HAPPENINGS), max_size=12), st.sampled_from((0, 14)), st.data())
def test_reordered_copied_and_lost_messages_converge_to_the_providers_state(whats, trial_days, data):
    stripe = happened(whats, trial_days)
    watched = Billing()
    for number, (at, shown) in enumerate(stripe.shown):
        watched.sync(shown, at, [event for event in stripe.events if event.sent == number])

    # Each message arrives some time after it was sent, never, or several times; syncs are ordered in time.
    arrivals = data.draw(st.lists(st.sampled_from(stripe.events), max_size=2 * len(stripe.events)))
    syncs = sorted(
        (data.draw(st.integers(min(event.sent, len(stripe.shown) - 1), len(stripe.shown) - 1)), number)
        for number, event in enumerate(arrivals)
    )
    lossy = Billing()
    for place, number in syncs:
        at, shown = stripe.shown[place]
        lossy.sync(data.draw(st.sampled_from(SHAPES))(shown), at, [arrivals[number]])
    at, shown = stripe.shown[-1]
    lossy.sync(shown, at)
    fresh = Billing()
    fresh.sync(shown, at)

    assert lossy.state == watched.state
    assert fresh.state == watched.state
    received = {event.id for event in arrivals if event.type == "invoice.payment_failed"}
    assert set(lossy.failed) == received
    assert lossy.facts == len(received)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(HAPPENINGS), max_size=12), st.integers(0, 12), st.integers(0, 60 * 24))
def test_a_paid_period_entitles_until_its_end_unless_ended_or_paused(whats, synced, hours):
    stripe = happened(whats, 0)
    billing = Billing()
    at, shown = stripe.shown[min(synced, len(stripe.shown) - 1)]
    billing.sync(shown, at)

    now = datetime.fromtimestamp(at + hours * 3600, UTC)
    billing.pass_time(now)

    subscription = billing.state.subscription
    paid = subscription.paid_until is not None and now < subscription.paid_until
    if paid and subscription.provider_status != "canceled" and not shown["pause_collection"]:
        assert subscription.access in ENTITLING


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(HAPPENINGS), max_size=12))
@example(["days_pass"] * 4)  # the last sync is after the end of the trial: its result is final
def test_access_expires_when_the_provider_sends_no_messages(whats):
    stripe = happened(whats, 14)
    billing = Billing()
    at, shown = stripe.shown[-1]
    billing.sync(shown, at)

    billing.pass_time(datetime.fromtimestamp(at + 400 * 86_400, UTC))

    subscription = billing.state.subscription
    assert subscription.access not in ENTITLING or subscription.past_end
    assert billing.state.due is None


def test_a_second_failure_after_a_missed_recovery_has_its_own_grace_period():
    stripe = happened(["renew", "renew", "renewal_fails", "pay", "renewal_fails"], 0)
    lossy, fresh = Billing(), Billing()
    for place in (3, 5):
        lossy.sync(stripe.shown[place][1], stripe.shown[place][0])
    fresh.sync(stripe.shown[5][1], stripe.shown[5][0])

    assert lossy.state == fresh.state


def test_a_failure_within_a_period_after_a_missed_payment_of_that_period_keeps_the_period_paid():
    stripe = happened(["renew", "renewal_fails", "pay", "change_plan_fails"], 0)
    lossy, fresh = Billing(), Billing()
    for place in (2, 4):
        lossy.sync(stripe.shown[place][1], stripe.shown[place][0])
    fresh.sync(stripe.shown[4][1], stripe.shown[4][0])

    assert lossy.state == fresh.state
