"""Whatever of a subscription's events comes, however often and in whatever order, we end where the provider is."""

from datetime import UTC, datetime

import recorded
from billing_samples import CATALOGUE, EMAIL, NOW, TENANT
from hypothesis import given, settings
from hypothesis import strategies as st
from paybill_billing.providers.stripe.mappers import attempt, subscription_snapshot
from paybill_billing.subscriptions.domain import payments, subscriptions
from paybill_billing.subscriptions.domain.accounts import Account, Status
from paybill_billing.subscriptions.domain.entitling import ENTITLING
from paybill_billing.subscriptions.domain.subscriptions import FailedCollection
from stripe_model import HAPPENINGS, Stripe

START = int(NOW.timestamp())
ACCOUNT = Account(
    id=TENANT,
    name="Acme",
    contact_email=EMAIL,
    plan="pro",
    plan_version=1,
    provider="stripe",
    retention_s=0,
    status=Status.OPEN,
    customer="cus_1",
)
SHAPES = (lambda shape: shape, recorded.current, recorded.of_2020, recorded.of_2017)


class Billing:
    """What billing does with one subscription, without what is around it: timers fire, and looks are decided."""

    def __init__(self):
        self.standing = None
        self.failed = {}
        self.facts = 0

    def look(self, shown, at, heard=()):
        """See the subscription as it is shown at `at`, for the sake of these events."""
        now = datetime.fromtimestamp(at, UTC)
        self.pass_time(now)
        failures = []
        for event in heard:
            if event.type == "invoice.payment_failed":
                failure = attempt(event.id, event.object)
                failures.append(FailedCollection(failure.invoice, datetime.fromtimestamp(event.created, UTC)))
                said = payments.record_failure(
                    self.failed.get(event.id), failure, tenant_id=TENANT, subscription_id="sub_" + 32 * "1"
                )
                for fact in said:
                    self.failed[event.id] = payments.evolve(self.failed.get(event.id), fact)
                    self.facts += 1
        found = subscription_snapshot(shown)
        sold = subscriptions.pinned_plan(CATALOGUE, ACCOUNT, self.standing, found)
        self._fold(
            subscriptions.sync(
                self.standing, found, tenant_id=TENANT, provider="stripe", pinned=sold, failures=failures, now=now
            )
        )

    def pass_time(self, now):
        """Fire what is due by then, each at its own time."""
        while self.standing is not None and self.standing.due is not None and self.standing.due <= now:
            self._fold(subscriptions.on_time(self.standing, self.standing.due))

    def _fold(self, said):
        for event in said:
            self.standing = subscriptions.evolve(self.standing, event)


def happened(whats, trial_days):
    stripe = Stripe(START, trial_days)
    stripe.happen("days_pass")
    for what in whats:
        stripe.happen(what)
    return stripe


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(HAPPENINGS), max_size=12), st.sampled_from((0, 14)), st.data())
def test_any_permutation_copies_and_loss_of_events_end_in_the_providers_state(whats, trial_days, data):
    stripe = happened(whats, trial_days)
    watched = Billing()
    for number, (at, shown) in enumerate(stripe.shown):
        watched.look(shown, at, [event for event in stripe.events if event.sent == number])

    # Each message is heard some time after it was sent, or never, or several times; looks follow one another in time.
    arrivals = data.draw(st.lists(st.sampled_from(stripe.events), max_size=2 * len(stripe.events)))
    looks = sorted(
        (data.draw(st.integers(min(event.sent, len(stripe.shown) - 1), len(stripe.shown) - 1)), number)
        for number, event in enumerate(arrivals)
    )
    lossy = Billing()
    for look, number in looks:
        at, shown = stripe.shown[look]
        lossy.look(data.draw(st.sampled_from(SHAPES))(shown), at, [arrivals[number]])
    at, shown = stripe.shown[-1]
    lossy.look(shown, at)
    fresh = Billing()
    fresh.look(shown, at)

    assert lossy.standing == watched.standing
    assert fresh.standing == watched.standing
    heard = {event.id for event in arrivals if event.type == "invoice.payment_failed"}
    assert set(lossy.failed) == heard
    assert lossy.facts == len(heard)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(HAPPENINGS), max_size=12), st.integers(0, 12), st.integers(0, 60 * 24))
def test_what_was_paid_is_given_until_it_is_over_unless_the_provider_ends_or_pauses_it(whats, looked, hours):
    stripe = happened(whats, 0)
    billing = Billing()
    at, shown = stripe.shown[min(looked, len(stripe.shown) - 1)]
    billing.look(shown, at)

    now = datetime.fromtimestamp(at + hours * 3600, UTC)
    billing.pass_time(now)

    subscription = billing.standing.subscription
    paid = subscription.paid_until is not None and now < subscription.paid_until
    if paid and subscription.provider_status != "canceled" and not shown["pause_collection"]:
        assert subscription.access in ENTITLING


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(HAPPENINGS), max_size=12))
def test_when_the_provider_is_silent_for_ever_nobody_has_access_for_ever(whats):
    stripe = happened(whats, 14)
    billing = Billing()
    at, shown = stripe.shown[-1]
    billing.look(shown, at)

    billing.pass_time(datetime.fromtimestamp(at + 400 * 86_400, UTC))

    assert billing.standing.subscription.access not in ENTITLING
    assert billing.standing.due is None
