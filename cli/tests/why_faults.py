"""Twenty kinds of faults, as the parts of the services show them, with random variations."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

from paybill_contracts.why import (
    BillingState,
    EnvironmentState,
    FailedPayment,
    HoldState,
    Machine,
    OpenJob,
    PendingSync,
    QueuedMessage,
    RecentFact,
    RefusedWebhooks,
    ServicePart,
    SubscriptionState,
    TenantState,
    Unanswered,
    UnsettledState,
)

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
HEALTHY = {"decider": "ok", "relay": "ok", "reader": "ok", "bus": "ok", "database": "ok"}
SERVICES = ("tenant", "billing", "provisioner", "agent-gateway")


@dataclass
class Situation:
    """A tenant before its first payment, to which a fault is added; `random` chooses the variation."""

    random: Random
    tenant: TenantState = field(init=False)
    account: BillingState = field(init=False)
    environment: EnvironmentState = field(init=False)
    parts: dict[str, ServicePart] = field(init=False)
    unanswered: list[Unanswered] = field(default_factory=list)
    free_mib: int = 50_000

    def __post_init__(self) -> None:
        """Starts with random names, and with work that has nothing to do with the fault."""
        slug = f"acme-{self.random.randrange(1000)}"
        plan = self.random.choice(["starter", "team", "business"])
        self.tenant = TenantState(slug=slug, status="requested", plan=plan, region="eu-central")
        self.account = BillingState(
            provider="stripe", status="open", customer=f"cus_{self.number()}", checkout_url="https://pay.example/c/1"
        )
        self.environment = EnvironmentState(
            status="registered", region="eu-central", access="closed", target_access="open"
        )
        self.parts = {name: self._part(name) for name in SERVICES}
        if self.random.random() < 0.5:
            self.account = self.account.model_copy(
                update={"refused_webhooks": (self.refused("unsigned", accepted=True),)}
            )

    def _part(self, name: str) -> ServicePart:
        job = OpenJob(id=self.id(), kind="delete_ended_jobs", key="x", state="pending", attempts=0, error=None, due=NOW)
        return ServicePart(
            service=name,
            now=NOW + timedelta(milliseconds=self.random.randrange(-900, 900)),
            checks=HEALTHY,
            outbox_waiting=self.random.randrange(3),
            outbox_age_s=self.random.randrange(3),
            lag=self.random.randrange(5),
            owned=True,
            facts=(RecentFact(id=self.id(), type=f"{name}.something", at=NOW - timedelta(minutes=5)),),
            jobs=(job,) if self.random.random() < 0.5 else (),
        )

    def id(self) -> str:
        """Returns a random UUID."""
        return str(UUID(int=self.random.getrandbits(128)))

    def number(self) -> int:
        """Returns a random number."""
        return self.random.randrange(10**6)

    def service(self) -> str:
        """Returns a random service."""
        return self.random.choice(SERVICES)

    def change(self, name: str, **fields: object) -> None:
        """Changes the part of a service."""
        self.parts[name] = self.parts[name].model_copy(update=fields)

    def refused(self, reason: str, *, accepted: bool = False) -> RefusedWebhooks:
        """Returns refused webhooks; accepted: one was accepted since."""
        last = NOW - timedelta(seconds=self.random.randrange(600))
        after = last + timedelta(seconds=1) if accepted else self.random.choice([None, last - timedelta(hours=1)])
        return RefusedWebhooks(
            provider="stripe", reason=reason, count=self.random.randrange(1, 99), last_at=last, accepted_at=after
        )

    def subscription(self, access: str, status: str, **more: object) -> SubscriptionState:
        """Returns a subscription."""
        fields = {"id": f"sub_{'a' * 32}", "provider_object": f"sub_{self.number()}", "plan": self.tenant.plan}
        return SubscriptionState.model_validate({**fields, "provider_status": status, "access": access, **more})

    def paid(self, *subscriptions: SubscriptionState) -> None:
        """Adds subscriptions, by default one that gives access, whose environment is being built."""
        found = subscriptions or (self.subscription("active", "active"),)
        self.account = self.account.model_copy(update={"subscriptions": found})
        self.tenant = self.tenant.model_copy(update={"status": "provisioning"})
        self.environment = self.environment.model_copy(update={"status": "building", "tier": self.tenant.plan})

    def failed_job(self, name: str, kind: str, error: str) -> None:
        """Adds a job that failed, or that is retried."""
        state = self.random.choice(["failed", "pending"])
        attempts = self.random.randrange(1, 6)
        job = OpenJob(id=self.id(), kind=kind, key="x", state=state, attempts=attempts, error=error, due=NOW)
        self.change(name, jobs=(*self.parts[name].jobs, job))

    def all_parts(self) -> list[ServicePart]:
        """Returns the parts of the services that answer."""
        states = {
            "tenant": {"tenant": self.tenant},
            "billing": {"account": self.account},
            "provisioner": {"environment": self.environment},
        }
        absent = {each.service for each in self.unanswered}
        return [self.parts[name].model_copy(update=states.get(name, {})) for name in SERVICES if name not in absent]

    def machine(self) -> Machine:
        """Returns the machine of the client."""
        return Machine(now=NOW, free_mib=self.free_mib)


def _account(situation: Situation, **fields: object) -> None:
    situation.account = situation.account.model_copy(update=fields)


def _sync(situation: Situation, error: str, customer: str | None) -> PendingSync:
    object_ = f"sub_{situation.number()}"
    return PendingSync(provider="stripe", object=object_, customer=customer, attempts=3, error=error, due=NOW)


def wrong_plan(at: Situation) -> None:
    """The customer pays a price that belongs to no plan."""
    _account(
        at, own_syncs=(_sync(at, f"UnknownPriceError: price_{at.number()} belongs to no plan", at.account.customer),)
    )


def card_declined(at: Situation) -> None:
    """The bank refuses the first payment, or a renewal."""
    access, status = at.random.choice([("pending", "incomplete"), ("grace", "past_due")])
    at.paid(at.subscription(access, status, grace_until=NOW + timedelta(days=3) if access == "grace" else None))
    _account(at, failed_payment=FailedPayment(amount="25.00 EUR", attempt=at.random.randrange(1, 4), invoice="in_1"))
    at.tenant = at.tenant.model_copy(update={"status": "requested" if access == "pending" else "active"})


def nobody_paid(_: Situation) -> None:
    """The checkout is open."""


def webhook_lost(at: Situation) -> None:
    """The provider has a subscription, and its webhook never arrived."""
    _account(at, missing=(f"sub_{at.number()}",))


def wrong_secret(at: Situation) -> None:
    """The signing secret is not the provider's."""
    refused, shown = at.refused(at.random.choice(["bad_signature", "unsigned", "quarantined"])), {}
    if refused.reason != "quarantined" and at.random.random() < 0.5:
        refused = refused.model_copy(update={"undelivered_at": NOW})
    elif refused.reason != "quarantined":
        shown = {"missing": (f"sub_{at.number()}",)}
    _account(at, refused_webhooks=(refused,), **shown)


def provider_refuses(at: Situation) -> None:
    """The provider refuses to create the customer, or does not answer."""
    error = at.random.choice(["Stripe: invalid email address", "Stripe: this account cannot make live charges"])
    status = at.random.choice(["failed", "opening"])
    _account(at, status=status, customer=None, checkout_url=None, failure=error if status == "failed" else None)
    at.failed_job("billing", "open_account", error)


def _build_fails(at: Situation, error: str) -> None:
    at.paid()
    if at.random.random() < 0.5:
        at.failed_job("provisioner", "build", error)
        return
    at.tenant = at.tenant.model_copy(update={"status": "provision_failed", "failure": error})
    changes = {"status": "failed", "failed_resource": "postgres.role", "failure": error}
    at.environment = at.environment.model_copy(update=changes)


def driver_without_rights(at: Situation) -> None:
    """The driver's login may not create roles."""
    _build_fails(
        at, f"InsufficientPrivilegeError: permission denied to create {at.random.choice(['role', 'database'])}"
    )


def isolation_switched_off(at: Situation) -> None:
    """Row-level security of a pool was switched off."""
    _build_fails(at, f"the pool is not isolated in {at.random.choice(['documents', 'orders'])}; restore its policy")


def capacity(at: Situation) -> None:
    """The server has no connection for another tenant, or a change of a tenant that is active fails."""
    error = "TooManyConnectionsError: too many clients already"
    _build_fails(at, error)
    if at.environment.failure and at.random.random() < 0.5:
        at.tenant = at.tenant.model_copy(update={"status": "active", "failure": None})
        at.environment = at.environment.model_copy(update={"status": "ready"})


def region_full(at: Situation) -> None:
    """No cell of the region takes another tenant."""
    at.paid()
    reason = f"every pool cell of eu-central is full or drained; free places are in: us-east ({at.number()})"
    changes: dict[str, object] = {"status": "registered", "refusal": reason, "refusal_ends": "more cells"}
    changes["unsettled"] = UnsettledState(reason="refused", text=reason, command="paybill cell list")
    at.environment = at.environment.model_copy(update=changes)


def bus_hung(at: Situation) -> None:
    """NATS does not answer, or accepts nothing."""
    name = at.service()
    if at.random.random() < 0.5:
        at.change(name, checks=HEALTHY | {"bus": at.random.choice(["away", "JetStream does not confirm"])})
    else:
        at.change(name, outbox_waiting=at.random.randrange(5, 500), outbox_age_s=at.random.randrange(31, 999))


def database_down(at: Situation) -> None:
    """PostgreSQL of one service does not answer."""
    name = at.service()
    at.unanswered.append(Unanswered(service=name, code="database_unavailable", detail="PostgreSQL does not answer"))


def held(at: Situation) -> None:
    """An operator holds the tenant."""
    at.paid()
    mode = at.random.choice(["blocked", "read_only"])
    hold = HoldState(origin="operator", mode=mode, reason=f"abuse report {at.number()}")
    at.tenant = at.tenant.model_copy(update={"status": "suspended", "holds": (hold,)})
    at.environment = at.environment.model_copy(
        update={"status": "ready", "access": "closed", "target_access": "closed"}
    )


def stale_lease(at: Situation) -> None:
    """The process that owned the tenant's partition is paused, and no other took over."""
    at.change(at.service(), owned=False, lag=at.random.randrange(1, 50))


def poisoned_fact(at: Situation) -> None:
    """A service cannot handle a fact about the tenant."""
    name, dead = at.service(), at.random.random() < 0.5
    first = QueuedMessage(
        id=at.id(), type="billing.entitlements_set", attempts=8 if dead else 2, dead=dead, reason="KeyError: 'tier'"
    )
    behind = QueuedMessage(
        id=at.id(), type="tenant.offboarding_started", attempts=0, dead=False, reason="an earlier fact waits"
    )
    at.paid()
    at.change(name, messages=(first, behind))


def expired_checkout(at: Situation) -> None:
    """The checkout expired unpaid."""
    _account(at, checkout_expired=True)


def debt(at: Situation) -> None:
    """The customer did not pay in time."""
    overdue = f"{at.random.randrange(10, 99)}.00 EUR"
    at.paid(at.subscription("suspended", at.random.choice(["unpaid", "past_due"]), debt=overdue))
    hold = HoldState(origin="billing", mode="blocked", reason="the subscription is suspended")
    at.tenant = at.tenant.model_copy(update={"status": "suspended", "holds": (hold,)})
    _account(at, failed_payment=FailedPayment(amount=overdue, attempt=4, invoice="in_1"))


def unknown_tier(at: Situation) -> None:
    """The blueprint lacks the tier of the plan."""
    at.paid()
    reason = f"no blueprint has the tier {at.random.choice(['gold', 'platinum'])} (silo)"
    changes = {"status": "registered", "refusal": reason, "refusal_code": "tier_unknown", "refusal_ends": "publish one"}
    at.environment = at.environment.model_copy(update=changes)


def clock_skew(at: Situation) -> None:
    """A clock is wrong."""
    if at.random.random() < 0.5:
        at.change(at.service(), now=NOW + timedelta(seconds=at.random.choice([-400, -30, 60, 900])))
    else:
        _account(at, refused_webhooks=(at.refused(at.random.choice(["stale", "future"])),))


def disk_full(at: Situation) -> None:
    """A disk is full."""
    choice = at.random.randrange(3)
    if choice == 0:
        at.free_mib = at.random.randrange(500)
    elif choice == 1:
        at.change(at.service(), checks=HEALTHY | {"bus": "insufficient resources (10023)"})
    else:
        at.paid()
        at.failed_job("provisioner", "build", "DiskFullError: could not extend file: No space left on device")


def unknown_customer(at: Situation) -> None:
    """Somebody paid as another customer of the provider."""
    _account(at, strangers=(_sync(at, "no account has this customer", f"cus_{at.number()}"),))


FAULTS: dict[Callable[[Situation], None], tuple[str, str]] = {
    wrong_plan: ("sync", "webhook retry"),
    card_declined: ("card_declined", "tenant portal"),
    nobody_paid: ("not_paid", "tenant checkout"),
    webhook_lost: ("webhook_lost", "provider reconcile"),
    wrong_secret: ("signature", "webhook refused"),
    provider_refuses: ("provider", "jobs retry"),
    driver_without_rights: ("build", "retry"),
    isolation_switched_off: ("build", "retry"),
    bus_hung: ("bus", "doctor"),
    database_down: ("database", "doctor"),
    capacity: ("build", "retry"),
    region_full: ("plan_refused", "cell list"),
    held: ("hold", "tenant resume"),
    stale_lease: ("lease", "doctor"),
    poisoned_fact: ("message", "events redrive"),
    expired_checkout: ("checkout_expired", "tenant checkout"),
    debt: ("debt", "tenant portal"),
    unknown_tier: ("plan_refused", "blueprint list"),
    clock_skew: ("clock", "doctor"),
    disk_full: ("disk", "doctor"),
    unknown_customer: ("unknown_customer", "webhook waiting"),
}
"""Each fault with the kind of its root cause, and a part of the command that helps."""
