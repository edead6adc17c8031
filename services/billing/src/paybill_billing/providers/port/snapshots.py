"""Provider objects in our own types: subscriptions, prices, collection attempts, refunds and disputes."""

from dataclasses import dataclass
from datetime import datetime

from paybill_contracts.catalogue import Interval
from paybill_contracts.money import Money
from paybill_contracts.payments import DisputeOutcome

_RUNNING = frozenset({"active", "trialing"})


@dataclass(frozen=True, slots=True)
class PriceSnapshot:
    """A price as the provider shows it. plan, version: what we wrote on it when we made it, None when we did not."""

    id: str
    lookup_key: str | None
    plan: str | None
    version: int | None


@dataclass(frozen=True, slots=True)
class SnapshotItem:
    """One of the things that a subscription is for. amount: of one unit, each `interval`; None for one we never use."""

    price: PriceSnapshot
    quantity: int
    amount: Money
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class PendingSnapshot:
    """What the provider will make of the subscription at `at`."""

    items: tuple[SnapshotItem, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class ProviderSnapshot:
    """A subscription as the provider shows it now, in our words.

    tenant: what we wrote on it at checkout, a hint and no proof. collection_paused: the provider has stopped
    collecting on somebody's wish. items: at least one, the likeliest plan first. invoice: the newest one, which an open
    failure must belong to. paid_until: the end of the newest period that is paid. failed_at: when the newest invoice
    was tried in vain or became overdue, where the provider still shows it.
    """

    id: str
    customer: str
    tenant: str | None
    status: str
    collection_paused: bool
    items: tuple[SnapshotItem, ...]
    period_start: datetime | None
    period_end: datetime | None
    cancel_at: datetime | None
    invoice: str | None
    trial_end: datetime | None = None
    paid_until: datetime | None = None
    failed_at: datetime | None = None
    pending: PendingSnapshot | None = None

    @property
    def is_entitling(self) -> bool:
        """Whether it gives access, whatever we knew of it."""
        return self.status in _RUNNING and not self.collection_paused


@dataclass(frozen=True, slots=True)
class OpenedAccount:
    """What the provider gave us for a new customer."""

    customer: str
    checkout: str
    checkout_url: str


@dataclass(frozen=True, slots=True)
class CollectionAttempt:
    """What a provider's event says about a failed attempt. `event`: its id; `number` counts from 1 per invoice."""

    event: str
    invoice: str
    amount: Money
    number: int


@dataclass(frozen=True, slots=True)
class Refund:
    """Money that goes back, as the provider shows it."""

    id: str
    amount: Money
    reason: str | None


@dataclass(frozen=True, slots=True)
class Dispute:
    """Money that a bank asks back, as the provider shows it. outcome: None while it is open."""

    id: str
    amount: Money
    reason: str | None
    respond_by: datetime | None
    outcome: DisputeOutcome | None
