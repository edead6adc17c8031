"""The message of all hops: twelve fields about a tenant, one of them sealed, encoded by Paybill's own library."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import Event, encode
from paybill_contracts.personal import Personal
from paybill_contracts.values import Count, Key, SubscriptionId, TenantId, Timestamp

TENANTS = 100
_SEALED = 88
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
"""Time of all facts."""


class _Metered(Event):
    """Fields of both facts of the hop."""

    tenant_id: TenantId
    subscription_id: SubscriptionId
    plan: Key
    meter: Key
    quantity: Count
    unit_price_minor: Count
    currency: str
    region: Key
    period_start: Timestamp
    period_end: Timestamp
    reported_by: Key
    contact: Personal[str]


class HopMetered(_Metered, type="billing.hop_metered", version=1, aggregate="subscription", key="subscription_id"):
    """Fact that the hop consumes."""


class HopNoted(_Metered, type="tenant.hop_noted", version=1, aggregate="hop", key="tenant_id"):
    """Fact that the hop publishes: `quantity` is the tenant's total so far."""


@dataclass(frozen=True, slots=True)
class Message:
    """A fact in its published form."""

    subject: str
    headers: dict[str, str]
    payload: bytes


def tenant(number: int, tenants: int = TENANTS) -> str:
    """Returns the id of tenant `number` modulo `tenants`."""
    return f"ten_{uuid.uuid5(uuid.NAMESPACE_OID, str(number % tenants)).hex}"


def usage(number: int, tenant_id: str, spread: int = 0) -> dict[str, Any]:
    """Returns the fields of event `number`, which concerns this tenant.

    spread: bytes by which the size of the sealed value varies around its usual one.
    """
    return {
        "tenant_id": tenant_id,
        "subscription_id": f"sub_{tenant_id[4:]}",
        "plan": "pro",
        "meter": "api_calls",
        "quantity": number % 97,
        "unit_price_minor": 12,
        "currency": "EUR",
        "region": "eu-1",
        "period_start": NOW,
        "period_end": NOW + timedelta(hours=1),
        "reported_by": "metering",
        "contact": Personal[str](
            key=f"billing/{tenant_id}", sealed="Q" * (_SEALED - spread // 2 + number % (spread + 1))
        ),
    }


def metered(number: int, tenant_id: str, spread: int = 0) -> HopMetered:
    """Returns event `number` with the fields of `usage`."""
    return HopMetered(**usage(number, tenant_id, spread))


def messages(count: int, first: int = 0, tenants: int = TENANTS, spread: int = 0) -> Iterator[Message]:
    """Yields facts of `tenants` tenants in turn; `spread` as in `usage`."""
    for number in range(first, first + count):
        id_ = tenant(number, tenants)
        event = metered(number, id_, spread)
        cause = str(uuid.uuid4())
        trace = f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01"
        revision = 1 + number // tenants
        fact = Fact(event, str(uuid.uuid4()), NOW, revision, Origin(cause, cause, "service:billing", trace))
        yield Message(subject_of(event), headers_of(fact), encode(event))
