"""Provider objects in our own types: subscriptions, prices, collection attempts, refunds and disputes."""

from dataclasses import dataclass
from datetime import datetime

from paybill_contracts.accounts import LeftoverKind
from paybill_contracts.catalogue import Interval
from paybill_contracts.money import Money
from paybill_contracts.payments import DisputeOutcome

_RUNNING = frozenset({"active", "trialing"})
_ENDED = frozenset({"canceled", "incomplete_expired"})


@dataclass(frozen=True, slots=True)
class PriceSnapshot:
    """A price of the provider. plan, version: ours, written on prices that we created; None on others."""

    id: str
    lookup_key: str | None
    plan: str | None
    version: int | None


@dataclass(frozen=True, slots=True)
class SnapshotItem:
    """An item of a subscription. amount: for one unit and `interval`. interval: None for one that we do not support."""

    price: PriceSnapshot
    quantity: int
    amount: Money
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class PendingSnapshot:
    """A change of the subscription that is scheduled at the provider."""

    items: tuple[SnapshotItem, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class ProviderSnapshot:
    """A subscription as the provider shows it now.

    tenant: written by us at checkout, a hint and no proof. collection_paused: payment collection was paused on request.
    pause: its behaviour for invoices meanwhile: `void`, `keep_as_draft` or `mark_uncollectible`.
    items: at least one, the likeliest plan first. invoice: the newest one, to which an open failure must belong.
    paid_until: end of the newest paid period. failed_at: time of the first failed collection of the oldest unpaid
    invoice, or of its due date, if the provider still shows it. overdue: the unpaid amount of the newest invoice after
    a failure. earlier_unpaid: an invoice before the newest is unpaid.
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
    overdue: Money | None = None
    pause: str = "void"
    earlier_unpaid: bool = False

    @property
    def has_ended(self) -> bool:
        """True when the subscription has ended, whatever its state was here."""
        return self.status in _ENDED

    @property
    def is_entitling(self) -> bool:
        """True when the subscription gives access, whatever its state was here."""
        return self.status in _RUNNING and not self.collection_paused


@dataclass(frozen=True, slots=True)
class PendingCharge:
    """An object of the provider that can charge a customer later, and is no subscription."""

    kind: LeftoverKind
    id: str


@dataclass(frozen=True, slots=True)
class InvoiceTotals:
    """Amounts of a customer's invoices. received: payments. credit: given, and not used up or taken back later.

    unpaid_credit: given for time of a period that was not paid, and not taken back.
    """

    received: tuple[Money, ...]
    credit: tuple[Money, ...]
    unpaid_credit: tuple[Money, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenedAccount:
    """A new customer and its checkout at the provider."""

    customer: str
    checkout: str
    checkout_url: str


@dataclass(frozen=True, slots=True)
class OpenedCheckout:
    """A checkout at which a customer can pay now."""

    id: str
    url: str


@dataclass(frozen=True, slots=True)
class CollectionAttempt:
    """A failed attempt to collect an invoice. event: the provider's event id. number: counts from 1 by invoice."""

    event: str
    invoice: str
    amount: Money
    number: int


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund."""

    id: str
    amount: Money
    reason: str | None


@dataclass(frozen=True, slots=True)
class Dispute:
    """A disputed payment. outcome: None while the dispute is open."""

    id: str
    amount: Money
    reason: str | None
    respond_by: datetime | None
    outcome: DisputeOutcome | None
