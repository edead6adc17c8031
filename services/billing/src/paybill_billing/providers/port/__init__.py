"""The outside world: billing providers, behind one port.

`Provider` is what every provider does. What only some can do are ports of their own (`Adopts`, `Redelivers`, `Lists`,
`Meters`, `Portal`): a provider has one by having its methods, and what needs it says so when it is missing.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

from paybill_contracts.catalogue import PlanVersion
from paybill_contracts.changes import Proration

from paybill_billing.providers.port.desired import DesiredSubscription as DesiredSubscription  # a part of the port
from paybill_billing.providers.port.snapshots import CollectionAttempt, Dispute, OpenedAccount, ProviderSnapshot, Refund

MAX_BODY_BYTES = 1024 * 1024
NOT_CONFIGURED_S = 60.0


class ProviderRefusedError(Exception):
    """The provider said no for good. The message carries its codes and never its words, which may quote the person."""


class ProviderAwayError(Exception):
    """The provider does not answer, is too busy, or does not know our key; come back after `after_s` seconds."""

    def __init__(self, after_s: float, why: str) -> None:
        super().__init__(why)
        self.after_s = after_s


class MalformedObjectError(Exception):
    """Raised for an object of the provider that lacks what every version of it has."""


class DeliveryRefusedError(Exception):
    """What was sent is no message of the provider. `code` is part of our API."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True)
class Order:
    """A new customer and what it wants to buy. `email` is in clear: use it and forget it."""

    tenant_id: str
    name: str
    email: str
    product: str
    plan: PlanVersion


@dataclass(frozen=True, slots=True)
class Delivery:
    """A verified message, without what it says about people.

    event_id: the same for all copies of a message. target: what is to be looked at because of it, a subscription or
    `<kind>/<id>` of another object. quarantine: why it is kept, and nothing else is done about it.
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
    """Where an object of the provider leads.

    target: what else is to be looked at because of it. returned: what is to be remembered for itself. customer: whose
    payment it was. subscription, invoice: what for; None when the provider does not tell.
    """

    target: str | None = None
    returned: tuple[Refund | Dispute, ...] = ()
    customer: str | None = None
    subscription: str | None = None
    invoice: str | None = None


@dataclass(frozen=True, slots=True)
class UndeliveredPage:
    """A page of verified messages that were not delivered, each with its body; `next` is None on the last."""

    messages: tuple[tuple[Delivery, bytes], ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """A page of subscriptions as the provider shows them now; `next` is None on the last."""

    snapshots: tuple[ProviderSnapshot, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class MeterReading:
    """What a customer used of a meter until `at`. meter: the provider's name for it."""

    customer: str
    meter: str
    quantity: int
    at: datetime


class Inbound(Protocol):
    """How a provider's messages are told from forged ones, and read."""

    def receive(self, body: bytes, headers: Mapping[str, str], now: datetime) -> Delivery:
        """The message in a request. Raises DeliveryRefusedError."""

    def is_payment_failure(self, type_: str) -> bool:
        """Whether messages of this type tell of a failed attempt to collect."""

    def failed_attempt(self, event_id: str, body: bytes) -> CollectionAttempt | None:
        """The failed attempt in such a message; None when it tells too little, and its object has to be asked for."""


class Provider(Protocol):
    """What billing asks of a provider."""

    async def open(self, order: Order, key: str) -> OpenedAccount:
        """Make the customer and a checkout for it, once for each `key`."""

    async def fetch(self, subscription: str) -> ProviderSnapshot | None:
        """The subscription as it is now; None when the provider never had it."""

    async def cancel_all(self, customer: str) -> None:
        """Cancel all that the customer has, and close every checkout."""

    async def quote(self, subscription: str, desired: DesiredSubscription, at: datetime) -> Proration:
        """What the change would cost if it were made at `at`. Changes nothing."""

    async def change(self, subscription: str, desired: DesiredSubscription, at: datetime, key: str) -> None:
        """Make the change, prorated as it was quoted for `at`, once for each `key`; one that is made is left alone."""


@runtime_checkable
class Adopts(Protocol):
    """A provider whose customers may become tenants here, with what they subscribed to before."""

    async def adopt(self, customer: str, tenant_id: str, key: str) -> tuple[str, ...]:
        """Write the tenant on the customer, once for each `key`; the subscriptions that it has and that did not end.

        Raises ProviderRefusedError for a customer that is not there, or that is another tenant.
        """


@runtime_checkable
class ReferenceResolver(Protocol):
    """A provider whose messages may name an object and say no more, or one that is no subscription."""

    async def resolve(self, kind: str, id_: str) -> ResolvedReference | None:
        """Where the object leads; None when the provider never had it."""

    async def failed_attempt(self, event_id: str, invoice: str) -> CollectionAttempt | None:
        """The failed attempt that the event was about, as the invoice shows it; None when there was none."""


@runtime_checkable
class Redelivers(Protocol):
    """A provider that says which of its messages nobody took."""

    async def undelivered(self, since: datetime, after: str | None) -> UndeliveredPage:
        """A page of what was not delivered since then, the oldest page last; `after`: the page before's `next`."""


@runtime_checkable
class Lists(Protocol):
    """A provider that lists all subscriptions, those that ended too."""

    async def subscriptions(self, after: str | None) -> SnapshotPage:
        """A page of them; `after`: the page before's `next`."""


@runtime_checkable
class Meters(Protocol):
    """A provider that bills usage."""

    async def report(self, reading: MeterReading, key: str) -> None:
        """Add to the customer's meter, once for each `key`."""

    async def reported(self, meter: str, customer: str, since: datetime, until: datetime) -> int:
        """What the provider has counted in that time."""


@runtime_checkable
class Portal(Protocol):
    """A provider with pages of its own where customers manage what they bought."""

    async def portal(self, customer: str, return_url: str) -> str:
        """A link for this customer, good for a short while."""


async def _close_nothing() -> None:
    """Most providers hold no connection."""


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """What a provider is made of: its own part of the setting `providers`.

    settings: as written. secrets: the content of the files that names ending in `_file` point at, under the names
    without that ending. return_url: where people go after a checkout.
    """

    name: str
    settings: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    return_url: str


@dataclass(frozen=True, slots=True)
class ProviderConnection:
    """A provider that can be used. inbound: None when it sends no messages. close: gives its connections back."""

    provider: Provider
    inbound: Inbound | None = None
    close: Callable[[], Awaitable[None]] = _close_nothing


ProviderFactory = Callable[[ProviderConfig], ProviderConnection]
"""What the entry points of the group `paybill.billing_providers` name. Raises ConfigurationError."""


@dataclass(frozen=True, slots=True)
class Providers:
    """The providers of this installation, by the name that accounts carry."""

    by_name: Mapping[str, Provider]

    def __getitem__(self, name: str) -> Provider:
        """Raises ProviderAwayError for one that is not configured any more: what is wanted of it waits."""
        if name not in self.by_name:
            raise ProviderAwayError(NOT_CONFIGURED_S, f"the provider {name} is not configured here; configure it again")
        return self.by_name[name]
