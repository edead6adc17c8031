"""The outside world: billing providers, behind one port."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from paybill_contracts.billing import PlanVersion

from paybill_billing.domain.accounts import Opened
from paybill_billing.domain.payments import Attempt
from paybill_billing.domain.subscriptions import Seen

MAX_BODY_BYTES = 1024 * 1024


class ProviderRefusedError(Exception):
    """The provider said no for good. The message carries its codes and never its words, which may quote the person."""


class ProviderAwayError(Exception):
    """The provider does not answer, is too busy, or does not know our key; come back after `after_s` seconds."""

    def __init__(self, after_s: float, why: str) -> None:
        super().__init__(why)
        self.after_s = after_s


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
    """A verified message, without what it says about people. `target`: the subscription that it is about."""

    event_id: str
    type: str
    created: datetime
    api_version: str | None
    livemode: bool
    object_type: str | None
    object_id: str | None
    customer: str | None
    target: str | None


class Inbound(Protocol):
    """How a provider's messages are told from forged ones, and read."""

    def receive(self, body: bytes, headers: Mapping[str, str], now: datetime) -> Delivery:
        """The message in a request. Raises DeliveryRefusedError."""

    def tells_of_failure(self, type_: str) -> bool:
        """Whether messages of this type tell of a failed attempt to collect."""

    def attempt(self, body: bytes) -> Attempt | None:
        """The failed attempt in such a message; None when it tells too little."""


class Provider(Protocol):
    """What billing asks of a provider."""

    async def open(self, order: Order, key: str) -> Opened:
        """Make the customer and a checkout for it, once for each `key`."""

    async def look(self, subscription: str) -> Seen | None:
        """The subscription as it is now; None when the provider never had it."""

    async def leave(self, customer: str) -> None:
        """Cancel all that the customer has, and close every checkout."""


@dataclass(frozen=True, slots=True)
class Providers:
    """The providers of this installation, by the name that accounts carry."""

    by_name: Mapping[str, Provider]

    def __getitem__(self, name: str) -> Provider:
        """Raises ProviderRefusedError for one that is not configured."""
        if name not in self.by_name:
            raise ProviderRefusedError(f"the provider {name} is not configured here")
        return self.by_name[name]
