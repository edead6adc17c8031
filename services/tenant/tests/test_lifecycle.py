"""Invariants of the lifecycle hold for any order of requests and events."""

from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from paybill_contracts.billing import (
    AccessState,
    SubscriptionEnded,
    SubscriptionPaused,
    SubscriptionSuspended,
)
from paybill_contracts.event import decode, encode
from paybill_contracts.tenant import (
    HoldOrigin,
    OffboardingStarted,
    ReturnStarted,
    Source,
    SuspensionMode,
    TenantActivated,
    TenantCancelled,
    TenantReactivated,
    TenantRequested,
    TenantSuspended,
)
from paybill_tenant.domain import access, environments, holds, invariants, offboarding, tenants
from paybill_tenant.domain.tenants import LEFT, Status, Tenant, evolve
from pydantic import TypeAdapter
from tenant_samples import EMAIL, EVENTS, ID, POLICY, entitlements, subscription_fields

ADAPTER = TypeAdapter(Tenant)
REQUEST = TenantRequested(
    tenant_id=ID,
    slug="acme",
    name="Acme",
    plan="pro",
    region="eu-1",
    contact_email=EMAIL,
    source=Source.API,
)
RUNS = {Status.ACTIVE, Status.SUSPENDED}

TRANSITIONS = {
    Status.REQUESTED: {Status.PROVISIONING, Status.PROVISION_FAILED, *RUNS, Status.CANCELLED},
    Status.PROVISIONING: {Status.PROVISION_FAILED, *RUNS, Status.OFFBOARDING},
    Status.PROVISION_FAILED: {Status.PROVISIONING, *RUNS, Status.CANCELLED, Status.OFFBOARDING},
    Status.ACTIVE: {Status.SUSPENDED, Status.OFFBOARDING},
    Status.SUSPENDED: {Status.ACTIVE, Status.OFFBOARDING},
    Status.OFFBOARDING: {Status.RETAINED, Status.RETURNING},
    Status.RETAINED: {Status.RETURNING, Status.PURGING},
    Status.PURGING: {Status.PURGED},
    Status.PURGED: set(),
    Status.RETURNING: {Status.PROVISIONING, Status.PROVISION_FAILED, *RUNS, Status.OFFBOARDING},
    Status.CANCELLED: set(),
}

modes = st.sampled_from(SuspensionMode)
seconds = st.integers(0, 10**8)


REASONS = ("audit", "abuse")
CASES = ("2026-17", "2026-18")


class Lifecycle(RuleBasedStateMachine):
    """Model of the holds, the access and the retention date of a tenant."""

    def __init__(self) -> None:
        super().__init__()
        self.log = [REQUEST]
        self.tenant = evolve(None, REQUEST)
        self.now = datetime(2026, 11, 22, tzinfo=UTC)
        self.operator_holds: dict[str, SuspensionMode] = {}
        self.legal_holds: list[str] = []
        self.has_access = False
        self.retain_until: datetime | None = None
        self.epoch = 0

    def decide(self, verb, *args, again=True) -> None:
        """Runs a decision twice; the second run returns no events. again: False for one that can run once."""
        before = self.tenant.status
        for event in verb(self.tenant, *args):
            self.log.append(event)
            self.tenant = evolve(self.tenant, event)
            match event:
                case TenantActivated() | TenantReactivated():
                    self.has_access = True
                case TenantSuspended():
                    self.has_access = False
                    modes = [hold.mode for hold in self.tenant.holds]
                    assert event.mode == max(modes, key=lambda mode: mode is SuspensionMode.BLOCKED)
                case ReturnStarted():
                    self.retain_until = None
                case OffboardingStarted():
                    self.retain_until = event.retain_until
                    assert not self.legal_holds
                case TenantCancelled():
                    assert not self.legal_holds
        if self.tenant.status is not Status.ACTIVE:
            self.has_access = False
        assert self.tenant.status is before or self.tenant.status in TRANSITIONS[before]
        if again and before not in LEFT and self.tenant.status not in LEFT:
            assert verb(self.tenant, *args) == []

    def request(self, verb, *args, again=True) -> bool:
        """Runs an operator's request; False when it is refused, for one of the reasons of the rules."""
        try:
            self.decide(verb, *args, again=again)
        except tenants.TenantLeftError:
            assert self.tenant.status in LEFT
            return False
        except tenants.RetentionUnknownError:
            assert self.tenant.retention_s is None
            return False
        except tenants.LegalHoldError:
            assert self.legal_holds
            return False
        return True

    @rule(mode=modes, reason=st.sampled_from(REASONS))
    def suspend(self, mode, reason):
        if self.request(holds.suspend, mode, reason):
            self.operator_holds[reason] = mode

    @rule(reason=st.sampled_from(REASONS))
    def resume_from_one(self, reason):
        if reason in self.operator_holds and self.request(holds.resume, reason, again=False):
            del self.operator_holds[reason]

    @rule()
    def resume(self):
        if self.request(holds.resume):
            self.operator_holds.clear()

    @rule(case=st.sampled_from(CASES))
    def place_legal_hold(self, case):
        if case not in self.legal_holds and self.request(holds.place_legal_hold, case):
            self.legal_holds.append(case)

    @rule(case=st.sampled_from(CASES))
    def release_legal_hold(self, case):
        if case in self.legal_holds:
            self.request(holds.release_legal_hold, case, again=False)
            self.legal_holds.remove(case)

    @rule(retention_s=seconds)
    def account_registered(self, retention_s):
        self.decide(tenants.on_account_registered, EVENTS.registered.model_copy(update={"retention_s": retention_s}))

    @rule(paused=st.booleans())
    def subscription_suspended(self, paused):
        kind = SubscriptionPaused if paused else SubscriptionSuspended
        state = AccessState.PAUSED if paused else AccessState.SUSPENDED
        self.decide(access.on_subscription_suspended, kind(**subscription_fields(ID, state)))
        self.decide(access.on_entitlements_set, entitlements(ID, allows=False), self.now)

    def is_customer(self):
        return self.tenant.status is not Status.CANCELLED and self.tenant.left_by is not HoldOrigin.OPERATOR

    def bill_no_more(self):
        """Billing cancels everything of an account whose tenant left for good."""
        if self.tenant.status in LEFT and self.tenant.left_by is HoldOrigin.OPERATOR and self.tenant.entitlement:
            self.decide(access.on_entitlements_set, entitlements(ID, allows=False), self.now)

    @precondition(lambda self: self.is_customer())
    @rule()
    def subscription_entitles(self):
        self.decide(access.on_subscription_entitling)
        self.decide(access.on_entitlements_set, entitlements(ID, allows=True), self.now)

    @precondition(lambda self: self.is_customer())
    @rule(allows=st.booleans())
    def entitlements_set(self, allows):
        self.decide(access.on_entitlements_set, entitlements(ID, allows=allows), self.now)

    @rule(retention_s=seconds)
    def subscription_ended(self, retention_s):
        ended = SubscriptionEnded(**subscription_fields(ID, AccessState.ENDED), retention_s=retention_s)
        self.decide(offboarding.on_subscription_ended, ended, POLICY, self.now)
        self.decide(access.on_entitlements_set, entitlements(ID, allows=False), self.now)

    @rule()
    def environment_planned(self):
        self.decide(environments.on_environment_planned, EVENTS.planned, self.now)

    @rule()
    def environment_failed(self):
        self.decide(environments.on_environment_failed, EVENTS.failed)

    @rule(built_again=st.booleans())
    def environment_ready(self, built_again):
        self.epoch += built_again or self.tenant.status is Status.RETURNING
        ready = EVENTS.ready.model_copy(update={"epoch": max(self.epoch, 1)})
        self.decide(environments.on_environment_ready, ready)

    @rule()
    def environment_retained(self):
        self.decide(offboarding.on_environment_retained, EVENTS.retained, self.now)

    @rule()
    def offboard(self):
        self.request(offboarding.offboard, "closed", self.now)
        self.bill_no_more()

    @rule(after_s=st.integers(0, 2000))
    def time_passes(self, after_s):
        self.now += timedelta(seconds=after_s)
        self.decide(offboarding.on_time, self.now)

    @invariant()
    def operators_holds_are_stored(self):
        if self.tenant.status in LEFT:
            return
        stored = {hold.reason: hold.mode for hold in self.tenant.holds if hold.origin is HoldOrigin.OPERATOR}
        assert stored == self.operator_holds

    @invariant()
    def billing_allows_access_exactly_without_its_hold_and_without_leaving(self):
        assert invariants.access_agrees(self.tenant) is None

    @invariant()
    def only_an_active_tenant_without_holds_has_access(self):
        assert self.has_access == (self.tenant.status is Status.ACTIVE)
        assert self.tenant.status not in RUNS or (self.tenant.status is Status.SUSPENDED) == bool(self.tenant.holds)

    @invariant()
    def the_retention_date_changes_only_when_the_tenant_leaves_or_returns(self):
        assert self.tenant.retain_until == self.retain_until

    @invariant()
    def legal_holds_are_stored(self):
        assert list(self.tenant.legal_holds) == self.legal_holds

    @invariant()
    def the_encoded_log_replays_to_the_state(self):
        replayed = None
        for event in self.log:
            replayed = evolve(replayed, decode(event.TYPE, event.VERSION, encode(event)))

        assert replayed == self.tenant
        assert ADAPTER.validate_json(ADAPTER.dump_json(self.tenant)) == self.tenant


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
