"""Stripe's objects in our words: every shape that an account may still send, old and current.

Source: https://docs.stripe.com/api; what moved is in https://docs.stripe.com/changelog (2025-03-31.basil): a
subscription's period to its items, an invoice's subscription under `parent`.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from paybill_contracts.money import Money
from pydantic import ValidationError

from paybill_billing.domain.catalogue import PriceSeen
from paybill_billing.domain.payments import Attempt
from paybill_billing.domain.subscriptions import Seen

Json = Mapping[str, Any]

TENANT = "tenant_id"
PLAN = "paybill_plan"
VERSION = "paybill_version"
"""The metadata that we write on what we create."""


_YEAR_9999 = 253_370_764_800


class ShapeError(Exception):
    """Stripe sent an object that lacks what every version of it has."""


def seen(subscription: Json) -> Seen:
    """A subscription as Stripe shows it. Raises ShapeError."""
    item = plan_item(subscription)
    price = _price(subscription, item)
    cancel_at = _time(subscription.get("cancel_at"))
    period_end = _time(item.get("current_period_end") or subscription.get("current_period_end"))
    if cancel_at is None and subscription.get("cancel_at_period_end"):
        cancel_at = period_end
    return Seen(
        id=_text(subscription, "id"),
        customer=_id(subscription.get("customer")) or _lacking(subscription, "customer"),
        tenant=_metadata(subscription).get(TENANT),
        status=_text(subscription, "status"),
        collection_paused=bool(subscription.get("pause_collection")),
        quantity=_count(item.get("quantity", subscription.get("quantity"))),
        price=_price_seen(price),
        amount=_amount(price, subscription),
        period_start=_time(item.get("current_period_start") or subscription.get("current_period_start")),
        period_end=period_end,
        cancel_at=cancel_at,
        invoice=_id(subscription.get("latest_invoice")),
    )


def items_of(subscription: Json) -> list[Json]:
    """What a subscription consists of: the plan, and perhaps metered prices beside it."""
    return _list(subscription, "items")


def plan_item(subscription: Json) -> Json:
    """The item that sells the plan: the first whose price we made, else the first that is not metered."""
    items = items_of(subscription)
    ours = (item for item in items if PLAN in _metadata(_offer(item)))
    licensed = (item for item in items if not _is_metered(_offer(item)))
    return next(ours, None) or next(licensed, None) or next(iter(items), {})


def attempt(event_id: str, invoice: Json) -> Attempt:
    """What an `invoice.payment_failed` says. Raises ShapeError."""
    return Attempt(
        event=event_id,
        invoice=_text(invoice, "id"),
        amount=_money(invoice.get("amount_due"), invoice.get("currency"), invoice),
        number=_count(invoice.get("attempt_count")),
    )


def subscription_of(item: Json) -> str | None:
    """The id of the subscription that an event's object is about; None when it is about none."""
    match item.get("object"):
        case "subscription":
            return _id(item)
        case "invoice":
            parent = item.get("parent")
            details = parent.get("subscription_details") if isinstance(parent, Mapping) else None
            under_parent = details.get("subscription") if isinstance(details, Mapping) else None
            return _id(item.get("subscription")) or _id(under_parent)
        case "checkout.session":
            return _id(item.get("subscription"))
        case _:
            return None


def customer_of(item: Json) -> str | None:
    """The id of the customer that an event's object belongs to."""
    return _id(item) if item.get("object") == "customer" else _id(item.get("customer"))


def _price(subscription: Json, item: Json) -> Json:
    """The price, or its older form the plan, on the item or, older still, on the subscription."""
    found = (holder.get(name) for holder in (item, subscription) for name in ("price", "plan"))
    return next((price for price in found if isinstance(price, Mapping)), None) or _lacking(subscription, "price")


def _offer(item: Json) -> Json:
    """The price of an item, or its older form the plan; empty when it has neither."""
    found = (item.get(name) for name in ("price", "plan"))
    return next((price for price in found if isinstance(price, Mapping)), {})


def _is_metered(price: Json) -> bool:
    recurring = price.get("recurring")
    return "metered" in {
        price.get("usage_type"),
        recurring.get("usage_type") if isinstance(recurring, Mapping) else None,
    }


def _price_seen(price: Json) -> PriceSeen:
    metadata = _metadata(price)
    version = metadata.get(VERSION, "")
    return PriceSeen(
        id=_text(price, "id"),
        lookup_key=price.get("lookup_key"),
        plan=metadata.get(PLAN),
        version=int(version) if version.isascii() and version.isdigit() else None,
    )


def _amount(price: Json, subscription: Json) -> Money:
    """What one unit costs; a price in tiers, or one with parts of a cent, has no such amount, and counts as 0."""
    minor = price.get("unit_amount", price.get("amount"))
    return _money(0 if minor is None else minor, price.get("currency") or subscription.get("currency"), price)


def _money(minor: object, currency: object, holder: Json) -> Money:
    if not isinstance(minor, int) or not isinstance(currency, str):
        _lacking(holder, "amount and currency")
    try:
        return Money(minor=minor, currency=currency.upper())
    except ValidationError:
        _lacking(holder, "amount and currency")


def _list(holder: Json, name: str) -> list[Json]:
    page = holder.get(name)
    return list(_mappings(page.get("data"))) if isinstance(page, Mapping) else []


def _mappings(values: object) -> Iterator[Json]:
    if isinstance(values, list):
        yield from (value for value in values if isinstance(value, Mapping))


def _id(reference: object) -> str | None:
    """The id in a reference: Stripe sends it plain, or expanded to the whole object."""
    if isinstance(reference, Mapping):
        reference = reference.get("id")
    return reference if isinstance(reference, str) and reference else None


def _metadata(holder: Json) -> dict[str, str]:
    found = holder.get("metadata")
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, Mapping) else {}


def _text(holder: Json, name: str) -> str:
    value = holder.get(name)
    return value if isinstance(value, str) and value else _lacking(holder, name)


def _count(value: object) -> int:
    """A quantity; metered items have none, and count as one."""
    return value if isinstance(value, int) and value >= 0 else 1


def _time(value: object) -> datetime | None:
    if not isinstance(value, int) or not 0 < value < _YEAR_9999:
        return None
    return datetime.fromtimestamp(value, UTC)


def _lacking(holder: Json, name: str) -> NoReturn:
    raise ShapeError(f"{holder.get('object', 'object')} {holder.get('id', 'without id')} has no usable {name}")
