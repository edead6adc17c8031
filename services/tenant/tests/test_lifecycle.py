"""Invariants of the lifecycle hold for any order of requests and events."""

from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from paybill_contracts.billing import (
    AccessState,
    SubscriptionEnded,
    SubscriptionPaused,
    SubscriptionSuspended,
)
from paybill_contracts.event import decode, encode
from paybill_contracts.tenant import (
    HoldOrigin,
    Source,
    SuspensionMode,
    TenantActivated,
    TenantReactivated,
    TenantRequested,
    TenantSuspended,
)
from paybill_tenant.domain import tenants
from paybill_tenant.domain.tenants import Status, Tenant, evolve
from pydantic import TypeAdapter
from tenant_samples import EMAIL, EVENTS, ID, subscription_fields

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
LEFT = {Status.OFFBOARDING, Status.RETAINED, Status.CANCELLED}
RUNS = {Status.ACTIVE, Status.SUSPENDED}

TRANSITIONS = {
    Status.REQUESTED: {Status.PROVISIONING, Status.PROVISION_FAILED, *RUNS, Status.CANCELLED},
    Status.PROVISIONING: {Status.PROVISION_FAILED, *RUNS, Status.OFFBOARDING},
    Status.PROVISION_FAILED: {Status.PROVISIONING, *RUNS, Status.CANCELLED},
    Status.ACTIVE: {Status.SUSPENDED, Status.OFFBOARDING},
    Status.SUSPENDED: {Status.ACTIVE, Status.OFFBOARDING},
    Status.OFFBOARDING: {Status.RETAINED},
    Status.RETAINED: set(),
    Status.CANCELLED: set(),
}

modes = st.sampled_from(SuspensionMode)
seconds = st.integers(0, 10**8)


class Lifecycle(RuleBasedStateMachine):
    """Model of the holds, the access and the retention date of a tenant."""

    def __init__(self) -> None:
        super().__init__()
        self.log = [REQUEST]
        self.tenant = evolve(None, REQUEST)
        self.now = datetime(2026, 11, 22, tzinfo=UTC)
        self.holds: dict[HoldOrigin, SuspensionMode] = {}
        self.has_access = False
        self.retain_until: datetime | None = None

    def decide(self, verb, *args) -> None:
        """Runs a decision twice; the second run returns no events."""
        before = self.tenant.status
        for event in verb(self.tenant, *args):
            self.log.append(event)
            self.tenant = evolve(self.tenant, event)
            match event:
                case TenantActivated() | TenantReactivated():
                    self.has_access = True
                case TenantSuspended():
                    self.has_access = False
                    assert event.mode == max(self.holds.values(), key=lambda mode: mode is SuspensionMode.BLOCKED)
        if self.tenant.status in LEFT:
            self.has_access = False
        assert self.tenant.status is before or self.tenant.status in TRANSITIONS[before]
        if before not in LEFT:
            assert self.tenant.status in LEFT or verb(self.tenant, *args) == []

    def request(self, verb, *args) -> bool:
        """Runs an operator's request; False when it is refused, which needs an offboarded tenant or no retention."""
        try:
            self.decide(verb, *args)
        except tenants.TenantLeftError:
            assert self.tenant.status in LEFT
            return False
        except tenants.RetentionUnknownError:
            assert self.tenant.retention_s is None
            return False
        return True

    @rule(mode=modes)
    def suspend(self, mode):
        if self.tenant.status not in LEFT:
            self.holds[HoldOrigin.OPERATOR] = mode
        self.request(tenants.suspend, mode, "because")

    @rule()
    def resume(self):
        if self.tenant.status not in LEFT:
            self.holds.pop(HoldOrigin.OPERATOR, None)
        self.request(tenants.resume)

    @rule(retention_s=seconds)
    def account_registered(self, retention_s):
        self.decide(tenants.on_account_registered, EVENTS.registered.model_copy(update={"retention_s": retention_s}))

    @rule(paused=st.booleans())
    def subscription_suspended(self, paused):
        if self.tenant.status not in LEFT:
            self.holds[HoldOrigin.BILLING] = SuspensionMode.BLOCKED
        kind = SubscriptionPaused if paused else SubscriptionSuspended
        access = AccessState.PAUSED if paused else AccessState.SUSPENDED
        self.decide(tenants.on_subscription_suspended, kind(**subscription_fields(ID, access)))

    @rule()
    def subscription_recovered(self):
        if self.tenant.status not in LEFT:
            self.holds.pop(HoldOrigin.BILLING, None)
        self.decide(tenants.on_subscription_recovered)

    @rule()
    def environment_planned(self):
        self.decide(tenants.on_environment_planned, EVENTS.planned)

    @rule()
    def environment_failed(self):
        self.decide(tenants.on_environment_failed, EVENTS.failed)

    @rule(epoch=st.integers(1, 3))
    def environment_ready(self, epoch):
        self.decide(tenants.on_environment_ready, EVENTS.ready.model_copy(update={"epoch": epoch}))

    @rule()
    def environment_retained(self):
        self.decide(tenants.on_environment_retained, EVENTS.retained)

    @rule(after_s=seconds)
    def offboard(self, after_s):
        self.now += timedelta(seconds=after_s % 1000)
        self.end(self.tenant.retention_s, tenants.offboard, "closed")

    @rule(retention_s=seconds)
    def subscription_ended(self, retention_s):
        ended = SubscriptionEnded(**subscription_fields(ID, AccessState.ENDED), retention_s=retention_s)
        self.end(retention_s, tenants.on_subscription_ended, ended)

    def end(self, retention_s, verb, argument) -> None:
        before = self.tenant.status
        if self.request(verb, argument, self.now) and before not in LEFT:
            assert self.tenant.status in LEFT
            if self.tenant.status is Status.OFFBOARDING:
                self.retain_until = self.now + timedelta(seconds=retention_s)

    @invariant()
    def holds_in_force_are_stored(self):
        assert {hold.origin: hold.mode for hold in self.tenant.holds} == self.holds

    @invariant()
    def only_an_active_tenant_without_holds_has_access(self):
        assert self.has_access == (self.tenant.status is Status.ACTIVE)
        assert self.tenant.status not in RUNS or (self.tenant.status is Status.SUSPENDED) == bool(self.holds)

    @invariant()
    def the_retention_date_never_changes(self):
        assert self.tenant.retain_until == self.retain_until

    @invariant()
    def the_encoded_log_replays_to_the_state(self):
        replayed = None
        for event in self.log:
            replayed = evolve(replayed, decode(event.TYPE, event.VERSION, encode(event)))

        assert replayed == self.tenant
        assert ADAPTER.validate_json(ADAPTER.dump_json(self.tenant)) == self.tenant


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
