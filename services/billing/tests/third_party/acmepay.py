"""Example provider of a third party: it imports the port and nothing else of billing.

Its remote is a dictionary in this process, one for each `remote` in its settings; its webhooks are signed with HMAC.
"""

import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from typing import Any

import orjson
from paybill_billing.providers.port import (
    Delivery,
    DeliveryRefusedError,
    DesiredSubscription,
    Order,
    ProviderConfig,
    ProviderConnection,
    ProviderRefusedError,
    ProviderUnavailableError,
    SnapshotPage,
)
from paybill_billing.providers.port.snapshots import OpenedAccount, PriceSnapshot, ProviderSnapshot, SnapshotItem
from paybill_contracts.changes import ChangeKind, Proration
from paybill_contracts.money import Money
from paybill_runtime.errors import ConfigurationError

TOLERANCE_S = 300
MONTH = timedelta(days=30)


@dataclass
class Remote:
    """The remote service. `unavailable` makes every call fail until it is None."""

    orders: dict[str, Order] = field(default_factory=dict)
    subscriptions: dict[str, ProviderSnapshot] = field(default_factory=dict)
    opened: dict[str, OpenedAccount] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    unavailable: str | None = None
    numbers: Any = field(default_factory=lambda: count(1))

    def buy(self, customer: str) -> str:
        """Completes the checkout and returns the subscription's id."""
        plan, now, id_ = self.orders[customer].plan, datetime.now(UTC), f"acs_{next(self.numbers)}"
        price = plan.prices[0]
        self.subscriptions[id_] = ProviderSnapshot(
            id=id_,
            customer=customer,
            tenant=self.orders[customer].tenant_id,
            status="active",
            collection_paused=False,
            items=(SnapshotItem(PriceSnapshot(id_, None, plan.plan, plan.version), 1, price.amount, price.interval),),
            period_start=now,
            period_end=now + MONTH,
            cancel_at=None,
            invoice=None,
            paid_until=now + MONTH,
        )
        return id_

    def message(self, subscription: str) -> bytes:
        """Returns the body of a webhook about a subscription."""
        customer = self.subscriptions[subscription].customer
        content = {"id": f"ace_{next(self.numbers)}", "subscription": subscription, "customer": customer}
        return json.dumps(content).encode()


REMOTES: dict[str, Remote] = {}


def connect(config: ProviderConfig) -> ProviderConnection:
    """Connects the provider; the entry point names this function."""
    if not config.secrets.get("webhook"):
        raise ConfigurationError(f"the provider {config.name} needs webhook_file, with the secret of its webhooks")
    remote = REMOTES.setdefault(config.settings.get("remote", "default"), Remote())
    return ProviderConnection(AcmePay(remote), AcmeInbound(config.secrets["webhook"].encode()))


def sign(body: bytes, at: datetime, secret: bytes) -> dict[str, str]:
    """Returns the header of a webhook."""
    time = str(int(at.timestamp()))
    return {"acme-signature": f"{time}.{hmac.new(secret, time.encode() + b'.' + body, sha256).hexdigest()}"}


@dataclass(frozen=True)
class AcmePay:
    """Provider that uses the remote service."""

    remote: Remote

    async def open(self, order: Order, key: str) -> OpenedAccount:
        """Opens once for each key: the remote service stores the keys."""
        self._call(f"open {key}")
        if key not in self.remote.opened:
            customer = f"acc_{next(self.remote.numbers)}"
            self.remote.orders[customer] = order
            self.remote.opened[key] = OpenedAccount(customer, f"ach_{customer}", f"https://acmepay.example/{customer}")
        return self.remote.opened[key]

    async def fetch(self, subscription: str) -> ProviderSnapshot | None:
        self._call(f"fetch {subscription}")
        return self.remote.subscriptions.get(subscription)

    async def cancel_all(self, customer: str) -> None:
        self._call(f"cancel_all {customer}")
        for id_, snapshot in self.remote.subscriptions.items():
            if snapshot.customer == customer:
                self.remote.subscriptions[id_] = replace(snapshot, status="canceled")

    async def quote(self, subscription: str, desired: DesiredSubscription, at: datetime) -> Proration:
        """Returns a quote without proration: changes are billed with the next period."""
        after = _changed(self._found(subscription), desired, at)
        item = after.items[0]
        due = Money(minor=0, currency=item.amount.currency)
        regular = Money(minor=item.amount.minor * item.quantity, currency=item.amount.currency)
        return Proration(lines=(), due_now=due, next_amount=regular, effective_at=at)

    async def change(self, subscription: str, desired: DesiredSubscription, at: datetime, key: str) -> None:
        snapshot = self._found(subscription)
        if key not in self.remote.done:
            self.remote.subscriptions[subscription] = _changed(snapshot, desired, at)
            self.remote.done.add(key)

    async def subscriptions(self, after: str | None) -> SnapshotPage:
        """Returns one subscription a page."""
        ids = sorted(self.remote.subscriptions)
        rest = [id_ for id_ in ids if after is None or id_ > after]
        shown = tuple(self.remote.subscriptions[id_] for id_ in rest[:1])
        return SnapshotPage(shown, rest[0] if len(rest) > 1 else None)

    async def portal(self, customer: str, return_url: str) -> str:
        self._call(f"portal {customer}")
        return f"https://acmepay.example/portal/{customer}?back={return_url}"

    def _found(self, subscription: str) -> ProviderSnapshot:
        self._call(f"find {subscription}")
        if subscription not in self.remote.subscriptions:
            raise ProviderRefusedError("no such subscription")
        return self.remote.subscriptions[subscription]

    def _call(self, what: str) -> None:
        self.remote.calls.append(what)
        if self.remote.unavailable is not None:
            raise ProviderUnavailableError(0.2, self.remote.unavailable)


def _changed(snapshot: ProviderSnapshot, desired: DesiredSubscription, at: datetime) -> ProviderSnapshot:
    changes: Mapping[ChangeKind, Callable[[], ProviderSnapshot]] = {
        ChangeKind.PLAN: lambda: replace(snapshot, items=(replace(snapshot.items[0], quantity=desired.quantity or 1),)),
        ChangeKind.CANCEL: lambda: (
            replace(snapshot, cancel_at=snapshot.period_end)
            if desired.at_period_end
            else replace(snapshot, status="canceled", cancel_at=at)
        ),
        ChangeKind.REACTIVATE: lambda: replace(snapshot, cancel_at=None),
        ChangeKind.PAUSE: lambda: replace(snapshot, status="paused"),
        ChangeKind.RESUME: lambda: replace(snapshot, status="active"),
    }
    return changes[desired.kind]()


@dataclass(frozen=True)
class AcmeInbound:
    """Webhooks: `acme-signature: <seconds>.<HMAC-SHA256 of seconds, a dot and the body>`."""

    secret: bytes

    def receive(self, body: bytes, headers: Mapping[str, str], now: datetime) -> Delivery:
        time, _, signature = headers.get("acme-signature", "").partition(".")
        if not time.isascii() or not time.isdigit() or len(time) > 12:
            raise DeliveryRefusedError("unsigned", "the header Acme-Signature is missing or has no time")
        expected = hmac.new(self.secret, time.encode() + b"." + body, sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogateescape")):
            raise DeliveryRefusedError("bad_signature", "the secret did not make this signature")
        if abs(int(time) - now.timestamp()) > TOLERANCE_S:
            raise DeliveryRefusedError("stale", f"it was not signed within {TOLERANCE_S} s of now")
        try:
            content = orjson.loads(body)
            id_, subscription, customer = (str(content[name]) for name in ("id", "subscription", "customer"))
        except (ValueError, LookupError, TypeError):
            raise DeliveryRefusedError("not_ours", "the body names no changed object") from None
        return Delivery(
            event_id=id_,
            type="subscription.changed",
            created=now,
            api_version=None,
            livemode=True,
            object_type="subscription",
            object_id=subscription,
            customer=customer,
            target=subscription,
        )

    def is_payment_failure(self, type_: str) -> bool:
        """Returns False: its messages carry no reason, a fetch does."""
        return type_ == "never"

    def failed_attempt(self, event_id: str, body: bytes) -> None:
        """Returns None, for the same reason."""
