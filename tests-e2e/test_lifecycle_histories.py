"""Invariant 1 over random histories of a subscription: the domains of billing and tenant, in one process."""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.providers.stripe.mappers import subscription_snapshot
from paybill_billing.subscriptions.domain import subscriptions
from paybill_billing.subscriptions.domain.accounts import Account
from paybill_contracts.billing import (
    EntitlementsSet,
    SubscriptionActivated,
    SubscriptionEnded,
    SubscriptionGraceStarted,
    SubscriptionPaused,
    SubscriptionRecovered,
    SubscriptionSuspended,
)
from paybill_tenant.domain import access, environments, invariants, offboarding, tenants
from paybill_tenant.domain.tenants import Status

sys.path.append(str(Path(__file__).parents[1] / "services/billing/tests"))
sys.path.append(str(Path(__file__).parents[1] / "services/tenant/tests"))

from billing_samples import CATALOGUE, EMAIL, NOW  # found through the paths above
from stripe_model import HAPPENINGS, Stripe
from tenant_samples import EVENTS, ID, POLICY, REQUESTED

ACCOUNT = Account(id=ID, name="Acme", contact_email=EMAIL, plan="pro", plan_version=1, provider="stripe", retention_s=0)
PAUSED_THEN_FAILING = ["pause", "resume", "renewal_fails"]


class Services:
    """Billing and tenant of one customer: every fact of billing reaches the tenant, in order."""

    def __init__(self):
        self.subscription = None
        self.entitlements = None
        self.tenant = replace(REQUESTED, retention_s=60)
        self.epoch = 0

    def sync(self, shown, at):
        """Syncs the subscription as the provider shows it at `at`, after the timers that were due before."""
        now = datetime.fromtimestamp(at, UTC)
        self.pass_time(now)
        found = subscription_snapshot(shown)
        pinned = subscriptions.pinned_plan(CATALOGUE, ACCOUNT, self.subscription, found)
        facts = subscriptions.sync(
            self.subscription, found, tenant_id=ID, provider="stripe", pinned=pinned, failures=[], now=now
        )
        self.publish(facts, now)

    def pass_time(self, now):
        """Fires the timers of both services until `now`, each at its own time."""
        while True:
            times = (self.subscription.due if self.subscription else None, self.tenant.due)
            due = min((at for at in times if at is not None), default=None)
            if due is None or due > now:
                return
            if due == self.tenant.due:
                self.handle(offboarding.on_time(self.tenant, due), due)
            else:
                self.publish(subscriptions.on_time(self.subscription, due), due)

    def publish(self, facts, now):
        """Folds facts of billing, and hands them over to the tenant with the entitlements that follow from them."""
        for fact in facts:
            self.subscription = subscriptions.evolve(self.subscription, fact)
            pinned = fact.subscription.plan
            plan = subscriptions.published(CATALOGUE, pinned.plan, pinned.version).plan
            sets = entitlements.apply_subscription(self.entitlements, fact.subscription, plan, now)
            for event in (fact, *sets):
                if isinstance(event, EntitlementsSet):
                    self.entitlements = entitlements.evolve(self.entitlements, event)
                self.handle(self.handled(event, now), now)

    def handled(self, fact, now):
        match fact:
            case EntitlementsSet():
                return access.on_entitlements_set(self.tenant, fact, now)
            case SubscriptionSuspended() | SubscriptionPaused():
                return access.on_subscription_suspended(self.tenant, fact)
            case SubscriptionActivated() | SubscriptionRecovered() | SubscriptionGraceStarted():
                return access.on_subscription_entitling(self.tenant)
            case SubscriptionEnded():
                return offboarding.on_subscription_ended(self.tenant, fact, POLICY, now)
        return []

    def handle(self, events, now):
        """Folds events of the tenant; the provisioner does at once what they require."""
        for event in events:
            self.tenant = tenants.evolve(self.tenant, event)
        entitled = self.tenant.entitlement is not None and self.tenant.entitlement.allows_access
        if self.tenant.status is Status.OFFBOARDING:
            self.handle(offboarding.on_environment_retained(self.tenant, EVENTS.retained, now), now)
        elif self.tenant.status is Status.RETURNING or (self.tenant.status is Status.REQUESTED and entitled):
            self.epoch += 1
            ready = EVENTS.ready.model_copy(update={"epoch": self.epoch})
            self.handle(environments.on_environment_ready(self.tenant, ready), now)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(HAPPENINGS), max_size=14),
    st.sampled_from((0, 14)),
    st.lists(st.booleans(), min_size=15, max_size=15),
)
@example(PAUSED_THEN_FAILING, 0, [True, False, True, *[False] * 12])
def test_access_agrees_with_billing_after_any_history_and_any_lost_syncs(whats, trial_days, synced):
    stripe, both = Stripe(int(NOW.timestamp()), trial_days), Services()
    stripe.happen("days_pass")
    for what in whats:
        stripe.happen(what)
    for (at, shown), is_synced in zip(stripe.shown, synced, strict=False):
        if is_synced:
            both.sync(shown, at)
            assert invariants.access_agrees(both.tenant) is None

    at, shown = stripe.shown[-1]
    both.sync(shown, at)
    both.pass_time(datetime.fromtimestamp(at, UTC) + timedelta(hours=1))

    assert invariants.access_agrees(both.tenant) is None
    assert invariants.is_served_if_it_pays(both.tenant, has_incident=False) is None
    assert invariants.leaves_nothing_that_charges(both.tenant) is None


def test_a_failed_renewal_after_a_pause_that_one_fetch_shows_together_keeps_access():
    stripe, both = Stripe(int(NOW.timestamp())), Services()
    for what in ("days_pass", "pause"):
        stripe.happen(what)
        both.sync(stripe.shown[-1][1], stripe.shown[-1][0])
    paused = both.tenant
    for what in ("resume", "renewal_fails"):
        stripe.happen(what)
    both.sync(stripe.shown[-1][1], stripe.shown[-1][0])

    assert paused.status is Status.SUSPENDED
    assert (both.tenant.status, both.tenant.holds) == (Status.ACTIVE, ())
    assert both.entitlements.allows_access
