"""Port of billing providers: the protocols that a provider implements, and their types.

Every provider implements `Provider`. Optional capabilities are protocols of their own (`CustomerAdopter`,
`CustomerLookup`, `CustomerSubscriptions`, `RedeliverySource`, `SubscriptionLister`, `UsageReporter`, `UsageInvoices`,
`CustomerPortal`, `CheckoutProvider`, `DebtLister`, `ChargeLister`, `InvoiceLister`, `ReferenceResolver`): a provider
has one by having its methods.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

from paybill_contracts.catalogue import PlanVersion, Price
from paybill_contracts.changes import Proration
from paybill_contracts.money import Money
from paybill_contracts.purchases import FIRST_PRICE, PurchaseTerms, named_prices, price_for

from paybill_billing.providers.port.desired import ChangeRefusedError as ChangeRefusedError  # a part of the port
from paybill_billing.providers.port.desired import DesiredSubscription as DesiredSubscription  # a part of the port
from paybill_billing.providers.port.desired import MeteredPrice as MeteredPrice  # a part of the port
from paybill_billing.providers.port.desired import QuoteOutdatedError as QuoteOutdatedError  # a part of the port
from paybill_billing.providers.port.snapshots import (
    CollectionAttempt,
    Dispute,
    InvoiceTotals,
    OpenedAccount,
    OpenedCheckout,
    PendingCharge,
    ProviderSnapshot,
    Refund,
)

MAX_BODY_BYTES = 1024 * 1024
NOT_CONFIGURED_S = 60.0


class ProviderRefusedError(Exception):
    """Raised when the provider refused permanently. The message has its codes: its text may name a person."""


class ProviderUnavailableError(Exception):
    """Raised when the provider is unreachable, overloaded, or rejects our key; retry after `after_s` seconds."""

    def __init__(self, after_s: float, why: str) -> None:
        super().__init__(why)
        self.after_s = after_s


class MalformedObjectError(Exception):
    """Raised for an object of the provider that lacks what every version of it has."""


class DeliveryRefusedError(Exception):
    """Raised for a request that is not a message of the provider. `code` is part of our API."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True)
class Order:
    """A new customer and the plan that it buys. `email` is plaintext: use it and do not store it.

    terms: which of the plan's prices, and how many; a provider refuses what it cannot sell. metered: the overage prices
    that are sold with it.
    """

    tenant_id: str
    name: str
    email: str
    product: str
    plan: PlanVersion
    terms: PurchaseTerms = FIRST_PRICE
    metered: tuple[MeteredPrice, ...] = ()


@dataclass(frozen=True, slots=True)
class Purchase:
    """The plan that an existing customer buys. checkout: its last checkout, or None. metered: as in `Order`."""

    tenant_id: str
    customer: str
    product: str
    plan: PlanVersion
    checkout: str | None
    terms: PurchaseTerms = FIRST_PRICE
    metered: tuple[MeteredPrice, ...] = ()


def price_of(plan: PlanVersion, terms: PurchaseTerms) -> Price:
    """Returns the price of the plan that the customer buys. Raises ProviderRefusedError."""
    price = price_for(plan.prices, terms)
    if price is None:
        raise ProviderRefusedError(
            f"{plan.plan}@{plan.version} has no such price; its prices: {named_prices(plan.prices)}"
        )
    return price


@dataclass(frozen=True, slots=True)
class Delivery:
    """A verified message without personal data.

    event_id: the same for all copies of a message. target: the object to fetch because of it, a subscription or
    `<kind>/<id>` of another object. quarantine: why the message is stored but not processed.
    """

    event_id: str
    type: str
    created: datetime
    api_version: str | None
    livemode: bool
    object_type: str | None
    object_id: str | None
    customer: str | None
    target: str | None
    quarantine: str | None = None


@dataclass(frozen=True, slots=True)
class ResolvedReference:
    """The objects that an object of the provider refers to.

    target: another object to fetch because of it. reversals: refunds and disputes to record. customer: the payer.
    subscription, invoice: the purpose of the payment, None when the provider does not show it. expired_checkout: a
    checkout of the customer that can no longer be used.
    """

    target: str | None = None
    reversals: tuple[Refund | Dispute, ...] = ()
    customer: str | None = None
    subscription: str | None = None
    invoice: str | None = None
    expired_checkout: str | None = None


@dataclass(frozen=True, slots=True)
class UndeliveredPage:
    """A page of verified messages that were not delivered, each with its body. next: None on the last page."""

    messages: tuple[tuple[Delivery, bytes], ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """A page of current subscriptions. next: None on the last page."""

    snapshots: tuple[ProviderSnapshot, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class MeterReading:
    """Usage of a meter by a customer until `at`. meter: the provider's name for it."""

    customer: str
    meter: str
    quantity: int
    at: datetime


@dataclass(frozen=True, slots=True)
class InvoicedUsage:
    """A line of an invoice for usage of a meter. meter: the provider's name for it. final: False for a draft."""

    meter: str
    quantity: int
    start: datetime
    end: datetime
    invoice: str
    final: bool


class Inbound(Protocol):
    """Verifies and parses the messages of a provider."""

    def receive(self, body: bytes, headers: Mapping[str, str], now: datetime) -> Delivery:
        """Returns the message of a request. Raises DeliveryRefusedError."""

    def is_payment_failure(self, type_: str) -> bool:
        """Returns True for message types that report a failed attempt to collect."""

    def failed_attempt(self, event_id: str, body: bytes) -> CollectionAttempt | None:
        """Returns the failed attempt of such a message; None when its object must be fetched for it."""


class Provider(Protocol):
    """A billing provider."""

    async def open(self, order: Order, key: str) -> OpenedAccount:
        """Creates the customer and a checkout for it, once for each `key`."""

    async def fetch(self, subscription: str) -> ProviderSnapshot | None:
        """Returns the current subscription; None when the provider never had it."""

    async def cancel_all(self, customer: str) -> None:
        """Cancels all subscriptions and schedules of the customer, and closes every checkout. Idempotent."""

    async def quote(self, subscription: str, desired: DesiredSubscription, at: datetime) -> Proration:
        """Returns the cost of the change at `at`. Changes nothing. Raises ChangeRefusedError."""

    async def change(self, subscription: str, desired: DesiredSubscription, at: datetime, key: str) -> None:
        """Makes the change, prorated as it was quoted for `at`, once for each `key`.

        Raises QuoteOutdatedError or ChangeRefusedError when it cannot be made as `desired.confirmed`, and was not made.
        """


@runtime_checkable
class CustomerAdopter(Protocol):
    """A provider whose existing customers can become tenants, with their subscriptions."""

    async def adopt(self, customer: str, tenant_id: str, key: str) -> tuple[str, ...]:
        """Writes the tenant on the customer, once for each `key`, and returns its subscriptions that have not ended.

        Raises ProviderRefusedError for an unknown customer, or one that is another tenant.
        """


@runtime_checkable
class CustomerSubscriptions(Protocol):
    """A provider whose customers can have several subscriptions."""

    async def subscriptions_of(self, customer: str) -> tuple[ProviderSnapshot, ...]:
        """Returns all subscriptions of the customer that have not ended."""

    async def cancel(self, subscription: str) -> None:
        """Cancels one subscription at once, whatever its price is. Idempotent."""


@runtime_checkable
class CustomerLookup(Protocol):
    """A provider whose customers can be deleted."""

    async def is_deleted(self, customer: str) -> bool:
        """Returns whether the customer was deleted: it can buy nothing any more."""


@runtime_checkable
class TrialLister(Protocol):
    """A provider whose subscriptions can begin with a trial."""

    async def has_begun_trial(self, customer: str) -> bool:
        """Returns whether a subscription of the customer, which may have ended, had or has a trial."""


@runtime_checkable
class DebtLister(Protocol):
    """A provider that lists what a customer owes."""

    async def debt_of(self, customer: str) -> tuple[Money, ...]:
        """Returns the unpaid amount of each invoice of the customer that could not be collected."""


@runtime_checkable
class ChargeLister(Protocol):
    """A provider at which more than a subscription can charge a customer."""

    async def charges_of(self, customer: str) -> tuple[PendingCharge, ...]:
        """Returns the open checkouts, the schedules that have not started, and the items that are on no invoice."""

    async def remove_charge(self, charge: PendingCharge) -> None:
        """Expires, cancels or deletes it, so that it charges nothing. Idempotent."""


@runtime_checkable
class InvoiceLister(Protocol):
    """A provider that shows the money of a customer's invoices."""

    async def invoice_totals(self, customer: str) -> InvoiceTotals:
        """Returns the payments of all invoices of the customer, and its credit."""


@runtime_checkable
class ReferenceResolver(Protocol):
    """A provider whose messages may name only an object's id, or an object that is not a subscription."""

    async def resolve(self, kind: str, id_: str) -> ResolvedReference | None:
        """Returns the references of an object; None when the provider never had it."""

    async def failed_attempt(self, event_id: str, invoice: str) -> CollectionAttempt | None:
        """Returns the failed attempt of an event as the invoice shows it; None when there was none."""


@runtime_checkable
class RedeliverySource(Protocol):
    """A provider that lists its undelivered messages."""

    async def undelivered(self, since: datetime, after: str | None) -> UndeliveredPage:
        """Returns a page of the messages undelivered since then, oldest page last. after: the last `next`."""


@runtime_checkable
class EventSource(Protocol):
    """A provider that lists all its messages, for an installation that no webhook can reach."""

    async def events(self, since: datetime, after: str | None) -> UndeliveredPage:
        """Returns a page of the messages since then, as `undelivered` does."""


@runtime_checkable
class SubscriptionLister(Protocol):
    """A provider that lists all subscriptions, including ended ones."""

    async def subscriptions(self, after: str | None) -> SnapshotPage:
        """Returns a page of them. after: the last `next`."""


@runtime_checkable
class UsageReporter(Protocol):
    """A provider that bills usage."""

    async def report(self, reading: MeterReading, key: str) -> None:
        """Adds usage to the customer's meter, once for each `key`."""

    async def reported(self, meter: str, customer: str, since: datetime, until: datetime) -> int:
        """Returns the usage that the provider has counted in that time."""


@runtime_checkable
class UsageInvoices(Protocol):
    """A provider that shows the usage on its invoices."""

    async def invoiced(self, customer: str, since: datetime) -> tuple[InvoicedUsage, ...]:
        """Returns the usage on the customer's invoices that were created since then and are not void."""


@runtime_checkable
class CheckoutProvider(Protocol):
    """A provider that opens another checkout for a customer whose last one has expired."""

    async def checkout(self, purchase: Purchase, key: str) -> OpenedCheckout:
        """Returns the last checkout while it can be used, else a new one, once for each `key`."""


@runtime_checkable
class CustomerPortal(Protocol):
    """A provider with pages on which customers manage their subscriptions."""

    async def portal(self, customer: str, return_url: str) -> str:
        """Returns a short-lived link for this customer."""


async def _close_nothing() -> None:
    """Does nothing: most providers hold no connection."""


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """A provider's own part of the setting `providers`.

    settings: as configured. secrets: contents of the files that names ending in `_file` point at, under the names
    without that ending. return_url: page to open after a checkout.
    """

    name: str
    settings: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    return_url: str


@dataclass(frozen=True, slots=True)
class ProviderConnection:
    """A connected provider. inbound: None when it sends no messages. close: closes its connections.

    events_every_s: interval at which its messages are fetched, because none reaches us; None for webhooks.
    """

    provider: Provider
    inbound: Inbound | None = None
    close: Callable[[], Awaitable[None]] = _close_nothing
    events_every_s: float | None = None


ProviderFactory = Callable[[ProviderConfig], ProviderConnection]
"""Type of the entry points in the group `paybill.billing_providers`. Raises ConfigurationError."""


@dataclass(frozen=True, slots=True)
class Providers:
    """The configured providers by name."""

    by_name: Mapping[str, Provider]

    def __getitem__(self, name: str) -> Provider:
        """Returns a provider. Raises ProviderUnavailableError when it is not configured, so that its effects wait."""
        if name not in self.by_name:
            raise ProviderUnavailableError(
                NOT_CONFIGURED_S, f"the provider {name} is not configured here; configure it again"
            )
        return self.by_name[name]
