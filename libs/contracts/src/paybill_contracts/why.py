"""Diagnosis of one tenant: the part of each service, and the pure function that finds the root cause in all parts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Annotated

from pydantic import Field

from paybill_contracts.event import Value
from paybill_contracts.values import Count, Timestamp

Limited = Annotated[str, Field(max_length=1000)]


class RecentFact(Value):
    """A fact about the tenant. sentence: for people; empty from a service of an earlier version."""

    id: str
    type: str
    at: Timestamp
    sentence: str = ""


class OpenJob(Value):
    """A background job of the tenant that has not ended, or that failed.

    waits: how often in a row a system that it needs was away.
    """

    id: str
    kind: str
    key: str
    state: str
    attempts: Count
    error: Limited | None
    due: Timestamp
    waits: Count = 0


class QueuedMessage(Value):
    """A fact about the tenant that a service could not handle, or that waits behind one."""

    id: str
    type: str
    attempts: Count
    dead: bool
    reason: Limited


class PendingSync(Value):
    """An object of a provider that must be fetched. customer: of the provider, when a message named it.

    since: arrival of the first message about it; None when no message requested it, and from an earlier version.
    """

    provider: str
    object: str
    customer: str | None
    attempts: Count
    error: Limited | None
    due: Timestamp
    since: Timestamp | None = None


SIGNED_REFUSALS = frozenset({"stale", "future", "quarantined"})
"""Reasons for which a message with a right signature is refused."""


def may_be_of_strangers(reason: str, undelivered_at: datetime | None) -> bool:
    """Returns whether anybody may have sent messages that are refused for this reason.

    The signed reasons follow a right signature. A message that the provider could not deliver shows who sent them, too.
    """
    return reason not in SIGNED_REFUSALS and undelivered_at is None


class RefusedWebhooks(Value):
    """Webhooks that were refused for one reason. accepted_at: of the last one that was accepted."""

    provider: str
    reason: str
    count: Count
    last_at: Timestamp
    accepted_at: Timestamp | None
    undelivered_at: Timestamp | None = None

    @property
    def may_be_of_strangers(self) -> bool:
        """True when nothing shows that the provider sent them."""
        return may_be_of_strangers(self.reason, self.undelivered_at)


class OpenIncident(Value):
    """A problem that the service found."""

    id: str
    kind: str
    summary: Limited
    command: str | None
    since: Timestamp


class OpenViolation(Value):
    """An invariant that does not hold."""

    number: Count
    statement: Limited
    left: Limited
    right: Limited
    since: Timestamp


class HoldState(Value):
    """A reason why the tenant is suspended. origin: that of the hold, `legal` or `quarantine`."""

    origin: str
    mode: str
    reason: Limited


class TenantState(Value):
    """The tenant as its service knows it. waits_for, waits_until: None in a resting state.

    retain_until: of a tenant that left, and whose data is kept. requested_at: None when it is not known.
    """

    slug: str
    status: str
    plan: str
    region: str
    holds: tuple[HoldState, ...] = ()
    failure: Limited | None = None
    waits_for: Limited | None = None
    waits_until: Timestamp | None = None
    retain_until: Timestamp | None = None
    requested_at: Timestamp | None = None


class SubscriptionState(Value):
    """A subscription. debt: what is overdue, as text for people.

    pause: the provider's behaviour for invoices while it collects none; None when it collects.
    """

    id: str
    provider_object: str
    provider_status: str
    access: str
    plan: str
    grace_until: Timestamp | None = None
    debt: str | None = None
    pause: str | None = None


class FailedPayment(Value):
    """The last failed attempt to collect."""

    amount: str
    attempt: Count
    invoice: str | None


class BillingState(Value):
    """The tenant's account. missing: subscriptions that the provider has and billing does not know.

    provider_problem: why the provider could not be asked. debt: what the customer owes, as text for people.
    is_coupon_refused, is_customer_refused: the account failed because the provider does not accept the coupon, or the
    existing customer, of the sign-up. is_customer_deleted: at the provider. sells_with_debt: a customer that owes gets
    another checkout.
    plan_of_built_size: a plan on sale whose tier and placement are built, while the tenant is entitled to others.
    """

    provider: str
    status: str
    customer: str | None = None
    failure: Limited | None = None
    is_coupon_refused: bool = False
    is_customer_refused: bool = False
    is_customer_deleted: bool = False
    sells_with_debt: bool = True
    checkout_url: str | None = None
    checkout_expired: bool = False
    leaving: bool = False
    debt: str | None = None
    allows_access: bool | None = None
    subscriptions: tuple[SubscriptionState, ...] = ()
    missing: tuple[str, ...] = ()
    provider_problem: Limited | None = None
    failed_payment: FailedPayment | None = None
    refused_webhooks: tuple[RefusedWebhooks, ...] = ()
    own_syncs: tuple[PendingSync, ...] = ()
    strangers: tuple[PendingSync, ...] = ()
    plan_of_built_size: str | None = None


class UnsettledState(Value):
    """Reason why an environment is not as it has to be, and the next safe command."""

    reason: str
    text: Limited
    command: str
    since: Timestamp | None = None


class EnvironmentState(Value):
    """The tenant's environment. pending: a change that it has not followed; requested_by_person: the change is a move.

    refusal: why the size that the tenant is entitled to cannot be planned; refusal_code: of that reason; refusal_ends:
    what ends it. breach: guarantees of isolation that do not hold where it is.
    """

    status: str
    region: str
    tier: str | None = None
    placement: str | None = None
    access: str = ""
    target_access: str = ""
    failed_resource: str | None = None
    failure: Limited | None = None
    refusal: Limited | None = None
    refusal_code: str | None = None
    refusal_ends: Limited | None = None
    pending: Limited | None = None
    requested_by_person: bool = False
    breach: Limited | None = None
    unsettled: UnsettledState | None = None


class ServicePart(Value):
    """Knowledge of one service about a tenant, and about itself as far as it concerns the tenant.

    checks: as in `/readyz`. lag: facts that it has not handled, None when unknown. owned: a live process owns the
    tenant's partition.
    """

    service: str
    now: Timestamp
    checks: dict[str, str]
    outbox_waiting: Count
    outbox_age_s: Count
    lag: Count | None
    owned: bool
    facts: tuple[RecentFact, ...] = ()
    jobs: tuple[OpenJob, ...] = ()
    messages: tuple[QueuedMessage, ...] = ()
    incidents: tuple[OpenIncident, ...] = ()
    violations: tuple[OpenViolation, ...] = ()
    tenant: TenantState | None = None
    account: BillingState | None = None
    environment: EnvironmentState | None = None


class Unanswered(Value):
    """A service that did not answer. code: of the problem, such as `database_unavailable`."""

    service: str
    code: str
    detail: Limited


class Machine(Value):
    """Knowledge of the client about the machine of the stack. free_mib: on the fullest disk, that of `disk`."""

    now: Timestamp
    free_mib: Count | None = None
    disk: Limited = "the data directory"


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason why the tenant is not where it should be. command: safe, complete, and of `paybill`."""

    kind: str
    service: str
    summary: str
    command: str
    because: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChainLink:
    """A fact on the way to the tenant's state."""

    at: str
    service: str
    type: str
    id: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a tenant is in its state. causes: the root cause first; none when it rests where it should be.

    step: a command that helps although there is no cause. customer: at the provider, None when it is unknown.
    """

    tenant: str
    headline: str
    causes: tuple[Cause, ...]
    chain: tuple[ChainLink, ...]
    unanswered: tuple[Unanswered, ...]
    step: str | None = None
    customer: str | None = None

    @property
    def command(self) -> str:
        """The next safe command."""
        return self.causes[0].command if self.causes else self.step or f"paybill tenant show {self.tenant}"


LEFT = frozenset({"offboarding", "retained", "cancelled", "purging", "purged"})
"""Status of tenants that left: no verb about their access is accepted."""
ENTITLING = frozenset({"active", "trialing", "grace"})
"""Access of subscriptions that give access."""
MAX_CHAIN = 12
MAX_CLOCK_SKEW = timedelta(seconds=5)


def chain_of(parts: Iterable[ServicePart]) -> tuple[ChainLink, ...]:
    """Returns the last facts of all parts in the order of their times; of several of one type in a row the last one.

    Without that, the steps of a build would be the whole chain.
    """
    facts = sorted(((fact.at, part.service, fact) for part in parts for fact in part.facts), key=lambda each: each[:2])
    links: list[ChainLink] = []
    for _, row in groupby(facts, lambda each: (each[1], each[2].type)):
        *earlier, (at, service, fact) = row
        more = f" (and {len(earlier)} more before)" if earlier else ""
        sentence = f"{fact.sentence or fact.type}{more}"
        links.append(ChainLink(at=at.isoformat(), service=service, type=fact.type, id=fact.id, sentence=sentence))
    return tuple(links[-MAX_CHAIN:])


def time_text(at: datetime) -> str:
    """Returns a time for people."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def part_of(parts: Sequence[ServicePart], service: str) -> ServicePart | None:
    """Returns the part of a service; None when it did not answer."""
    return next((part for part in parts if part.service == service), None)


@dataclass(frozen=True, slots=True)
class Case:
    """All that is known about one tenant."""

    name: str
    parts: Sequence[ServicePart]
    unanswered: Sequence[Unanswered]
    machine: Machine

    @property
    def tenant(self) -> TenantState | None:
        """The tenant's state; None when its service did not answer."""
        part = part_of(self.parts, "tenant")
        return part.tenant if part else None

    @property
    def account(self) -> BillingState | None:
        """The account; None when billing did not answer or does not have it yet."""
        part = part_of(self.parts, "billing")
        return part.account if part else None

    @property
    def environment(self) -> EnvironmentState | None:
        """The environment; None when the provisioner did not answer or does not have it yet."""
        part = part_of(self.parts, "provisioner")
        return part.environment if part else None

    @property
    def awaits_payment(self) -> bool:
        """True while no subscription gives access and the tenant is not leaving."""
        account = self.account
        if account is None or account.leaving or self.status in LEFT:
            return False
        return not any(each.access in ENTITLING for each in account.subscriptions)

    @property
    def may_lack_webhooks(self) -> bool:
        """True when refused webhooks may explain the state: not after an end that billing knows and the provider shows.

        Anybody can send webhooks that are refused.
        """
        account, tenant = self.account, self.tenant
        if account is None:
            return False
        if account.missing:
            return True
        is_held = tenant is not None and any(hold.origin == "billing" for hold in tenant.holds)
        has_ended = is_held and not account.subscriptions and not account.provider_problem
        return self.awaits_payment and not has_ended

    @property
    def status(self) -> str:
        """The status of the tenant; empty when unknown."""
        return self.tenant.status if self.tenant else ""
