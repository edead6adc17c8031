"""Maps Stripe's objects to provider snapshots, for all API versions that an account may use.

Source: https://docs.stripe.com/api; changes are in https://docs.stripe.com/changelog (2025-03-31.basil moved a
subscription's period to its items, and an invoice's subscription under `parent`).
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NoReturn

from paybill_contracts.catalogue import Interval
from paybill_contracts.money import Money
from pydantic import ValidationError

from paybill_billing.providers.port import MalformedObjectError
from paybill_billing.providers.port.snapshots import (
    CollectionAttempt,
    PendingSnapshot,
    PriceSnapshot,
    ProviderSnapshot,
    SnapshotItem,
)

Json = Mapping[str, Any]

TENANT = "tenant_id"
PLAN = "paybill_plan"
VERSION = "paybill_version"
OVERAGE = "paybill_overage"
CHANGE = "paybill_change"
"""The metadata on the objects that we create."""


_YEAR_9999 = 253_370_764_800
FAILING = frozenset({"past_due", "unpaid"})
_UNPAID_ALWAYS = frozenset({"trialing", "incomplete", "incomplete_expired", "paused"})
_OF_A_PERIOD = frozenset({None, "subscription", "subscription_create", "subscription_cycle"})
"""Billing reasons of invoices for a whole period; others are for a part of it."""
_SAME_MOMENT_S = 60
_PAUSES = frozenset({"void", "keep_as_draft", "mark_uncollectible"})
_VERSION = re.compile(r"[0-9]{1,7}")


def subscription_snapshot(subscription: Json) -> ProviderSnapshot:
    """Returns the snapshot of a Stripe subscription. Raises MalformedObjectError."""
    item = plan_item(subscription)
    status = text_of(subscription, "status")
    cancel_at = time_of(subscription.get("cancel_at"))
    period_start = time_of(item.get("current_period_start") or subscription.get("current_period_start"))
    period_end = time_of(item.get("current_period_end") or subscription.get("current_period_end"))
    if cancel_at is None and subscription.get("cancel_at_period_end"):
        cancel_at = period_end
    invoice = _invoice(subscription.get("latest_invoice"))
    earlier = _earlier_unpaid(subscription, invoice)
    return ProviderSnapshot(
        id=text_of(subscription, "id"),
        customer=id_of(subscription.get("customer")) or _malformed(subscription, "customer"),
        tenant=_metadata(subscription).get(TENANT),
        status=status,
        collection_paused=bool(subscription.get("pause_collection")),
        items=_items(subscription, item),
        period_start=period_start,
        period_end=period_end,
        cancel_at=cancel_at,
        invoice=id_of(subscription.get("latest_invoice")),
        trial_end=time_of(subscription.get("trial_end")),
        paid_until=_paid_until(subscription, status, earlier or invoice, period_start, period_end),
        failed_at=_failed_at(earlier or invoice) if status in FAILING else None,
        pending=_pending(subscription),
        overdue=_overdue(invoice) if status in FAILING else None,
        pause=_pause(subscription),
        earlier_unpaid=earlier is not None,
    )


def items_of(subscription: Json) -> list[Json]:
    """Returns the items of a subscription: the plan, and possibly metered prices."""
    return _list(subscription, "items")


def plan_item(subscription: Json) -> Json:
    """Returns the plan's item: the first with a price that we created, else the first that is not metered."""
    items = items_of(subscription)
    ours = (item for item in items if PLAN in _metadata(_price_of(item)))
    licensed = (item for item in items if not is_metered(_price_of(item)))
    return next(ours, None) or next(licensed, None) or next(iter(items), {})


def attempt(event_id: str, invoice: Json) -> CollectionAttempt:
    """Returns the attempt of an `invoice.payment_failed` event. Raises MalformedObjectError."""
    return CollectionAttempt(
        event=event_id,
        invoice=text_of(invoice, "id"),
        amount=money_of(invoice.get("amount_due"), invoice.get("currency"), invoice),
        number=_count(invoice.get("attempt_count")),
    )


def subscription_of(item: Json) -> str | None:
    """Returns the id of the subscription that an event's object belongs to; None when it belongs to none."""
    match item.get("object"):
        case "subscription":
            return id_of(item)
        case "invoice":
            parent = item.get("parent")
            details = parent.get("subscription_details") if isinstance(parent, Mapping) else None
            under_parent = details.get("subscription") if isinstance(details, Mapping) else None
            return id_of(item.get("subscription")) or id_of(under_parent)
        case "checkout.session":
            return id_of(item.get("subscription"))
        case "subscription_schedule":
            return id_of(item.get("subscription")) or id_of(item.get("released_subscription"))
        case _:
            return None


def customer_of(item: Json) -> str | None:
    """Returns the id of the customer that an event's object belongs to."""
    return id_of(item) if item.get("object") == "customer" else id_of(item.get("customer"))


def _items(subscription: Json, first: Json) -> tuple[SnapshotItem, ...]:
    """Returns all items that can be mapped, the plan's first. Raises MalformedObjectError when there is none."""
    # In API versions of 2017 the plan is on the subscription itself, not on an item.
    holders = [
        first if _price_of(first) else subscription,
        *(item for item in items_of(subscription) if item is not first),
    ]
    return _mapped_items(holders, subscription) or (_item(holders[0], subscription),)


def _mapped_items(holders: list[Json], subscription: Json) -> tuple[SnapshotItem, ...]:
    items = []
    for holder in holders:
        with suppress(MalformedObjectError):
            items.append(_item(holder, subscription))
    return tuple(items)


def _item(holder: Json, subscription: Json) -> SnapshotItem:
    price = _price_of(holder) or _malformed(subscription, "price")
    return SnapshotItem(
        price=_price_snapshot(price),
        quantity=_count(holder.get("quantity")),
        amount=_amount(price, subscription),
        interval=_interval(price),
    )


def _interval(price: Json) -> Interval | None:
    """Returns the billing interval; None for one that we do not use, such as weeks."""
    recurring = price.get("recurring")
    holder = recurring if isinstance(recurring, Mapping) else price
    match holder.get("interval"), holder.get("interval_count", 1):
        case "month", 1:
            return Interval.MONTH
        case ("year", 1) | ("month", 12):
            return Interval.YEAR
        case _:
            return None


def _invoice(latest: object) -> Json | None:
    """Returns the newest invoice if it is expanded."""
    return latest if isinstance(latest, Mapping) and ("status" in latest or "paid" in latest) else None


def _paid_until(
    subscription: Json, status: str, invoice: Json | None, period_start: datetime | None, period_end: datetime | None
) -> datetime | None:
    """Returns the end of the newest paid period, according to the newest invoice, or else to the status."""
    if status in _UNPAID_ALWAYS:
        return None
    settled = status not in FAILING
    if invoice is not None:
        settled = invoice.get("paid") is True or optional_text_of(invoice, "status") in {"paid", "void"}
    if settled or (invoice is not None and not _opens_a_period(invoice, period_start)):
        return period_end
    trial_end = time_of(subscription.get("trial_end"))
    first = invoice is not None and invoice.get("billing_reason") == "subscription_create"
    if period_start is None or first or (trial_end is not None and period_start <= trial_end):
        return None
    return period_start


def unpaid_amount(invoice: Json) -> Money | None:
    """Returns what is unpaid of an invoice after a failed attempt to collect; None before the first attempt."""
    remaining = invoice.get("amount_remaining")
    if invoice.get("status") not in {"open", "uncollectible"}:
        return None
    is_due = invoice.get("status") == "uncollectible" or bool(invoice.get("attempted")) or _is_past_due(invoice)
    if not is_due or not isinstance(remaining, int) or remaining <= 0:
        return None
    return money_of(remaining, invoice.get("currency"), invoice)


def _is_past_due(invoice: Json) -> bool:
    """Returns True for an invoice with several attempts; older API versions do not have `attempted`."""
    count = invoice.get("attempt_count")
    return isinstance(count, int) and count > 0


def _earlier_unpaid(subscription: Json, latest: Json | None) -> Json | None:
    """Returns the oldest unpaid invoice if it is not the newest: a period may begin before the last one was paid."""
    unpaid = [each for each in _list(subscription, "invoices") if each.get("status") in {"open", "uncollectible"}]
    oldest = min(unpaid, key=lambda each: (_created(each), id_of(each) or ""), default=None)
    return oldest if oldest is not None and id_of(oldest) != id_of(latest) else None


def _created(invoice: Json) -> int:
    created = invoice.get("created")
    return created if isinstance(created, int) else 0


def _opens_a_period(invoice: Json, period_start: datetime | None) -> bool:
    """Returns True when the invoice is for the whole period, and not for a part of a paid one."""
    if optional_text_of(invoice, "billing_reason") in _OF_A_PERIOD or period_start is None:
        return True
    made = time_of(invoice.get("created") or invoice.get("date"))
    return made is None or (made - period_start).total_seconds() <= _SAME_MOMENT_S


def _failed_at(invoice: Json | None) -> datetime | None:
    """Returns the first failure of an open invoice: its finalization, or its due date if it is sent."""
    if invoice is None or optional_text_of(invoice, "status") not in {"open", "uncollectible"}:
        return None
    if invoice.get("collection_method", invoice.get("billing")) == "send_invoice":
        return time_of(invoice.get("due_date"))
    became = invoice.get("status_transitions")
    return time_of((became if isinstance(became, Mapping) else invoice).get("finalized_at"))


def _pause(subscription: Json) -> str:
    """Returns what happens to invoices while collection is paused."""
    paused = subscription.get("pause_collection")
    behavior = optional_text_of(paused, "behavior") if isinstance(paused, Mapping) else None
    return behavior if behavior in _PAUSES else "void"


def _overdue(invoice: Json | None) -> Money | None:
    """Returns the unpaid amount of an open invoice."""
    if invoice is None or optional_text_of(invoice, "status") not in {"open", "uncollectible"}:
        return None
    unpaid = invoice.get("amount_remaining", invoice.get("amount_due"))
    return money_of(unpaid, invoice.get("currency"), invoice) if isinstance(unpaid, int) and unpaid > 0 else None


def _pending(subscription: Json) -> PendingSnapshot | None:
    """Returns the scheduled change: an update with an outstanding payment, or the next phase of a schedule."""
    update, schedule = subscription.get("pending_update"), subscription.get("schedule")
    if isinstance(update, Mapping):
        items, at = list(_mappings(update.get("subscription_items"))), time_of(update.get("expires_at"))
    elif isinstance(schedule, Mapping):
        current = schedule.get("current_phase")
        ends = current.get("end_date") if isinstance(current, Mapping) else None
        phases = (phase for phase in _mappings(schedule.get("phases")) if phase.get("start_date") == ends)
        phase: Json = next(phases, {}) if ends is not None else {}
        items, at = list(_mappings(phase.get("items"))), time_of(ends)
    else:
        return None
    found = _mapped_items(items, subscription)
    return PendingSnapshot(items=found, at=at) if found and at is not None else None


def _price_of(item: Json) -> Json:
    """Returns the price of an item, or the plan of older API versions; empty when it has neither."""
    found = (item.get(name) for name in ("price", "plan"))
    return next((price for price in found if isinstance(price, Mapping)), {})


def is_metered(price: Json) -> bool:
    """Returns True for a price of usage, which has no quantity."""
    recurring = price.get("recurring")
    holders = (price, recurring if isinstance(recurring, Mapping) else {})
    return any(holder.get("usage_type") == "metered" for holder in holders)


def _price_snapshot(price: Json) -> PriceSnapshot:
    metadata, name = _metadata(price), price.get("lookup_key")
    version = metadata.get(VERSION, "")
    return PriceSnapshot(
        id=text_of(price, "id"),
        lookup_key=name if isinstance(name, str) else None,
        plan=metadata.get(PLAN),
        version=int(version) if _VERSION.fullmatch(version) else None,
    )


def _amount(price: Json, subscription: Json) -> Money:
    """Returns the unit price; a tiered price, or one with fractions of a cent, has none and counts as 0."""
    minor = price.get("unit_amount", price.get("amount"))
    return money_of(0 if minor is None else minor, price.get("currency") or subscription.get("currency"), price)


def money_of(minor: object, currency: object, holder: Json) -> Money:
    """Returns an amount of `holder`. Raises MalformedObjectError."""
    if not isinstance(minor, int) or not isinstance(currency, str):
        _malformed(holder, "amount and currency")
    try:
        return Money(minor=minor, currency=currency.upper())
    except ValidationError:
        _malformed(holder, "amount and currency")


def _list(holder: Json, name: str) -> list[Json]:
    page = holder.get(name)
    return list(_mappings(page.get("data"))) if isinstance(page, Mapping) else []


def _mappings(values: object) -> Iterator[Json]:
    if isinstance(values, list):
        yield from (value for value in values if isinstance(value, Mapping))


def id_of(reference: object) -> str | None:
    """Returns the id of a reference, which Stripe sends as an id or as the expanded object."""
    if isinstance(reference, Mapping):
        reference = reference.get("id")
    return reference if isinstance(reference, str) and reference else None


def price_of_line(line: Json) -> str | None:
    """Returns the id of a line's price; versions before 2025-03-31.basil have the price itself."""
    pricing = line.get("pricing") or {}
    return id_of((pricing.get("price_details") or {}).get("price")) or id_of(line.get("price"))


def _metadata(holder: Json) -> dict[str, str]:
    found = holder.get("metadata")
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, Mapping) else {}


def optional_text_of(holder: Json, name: str) -> str | None:
    """Returns an optional text of `holder`."""
    value = holder.get(name)
    return value if isinstance(value, str) else None


def text_of(holder: Json, name: str) -> str:
    """Returns a required text of `holder`. Raises MalformedObjectError."""
    value = holder.get(name)
    return value if isinstance(value, str) and value else _malformed(holder, name)


def _count(value: object) -> int:
    """Returns a quantity; metered items have none, and count as one."""
    return value if isinstance(value, int) and value >= 0 else 1


def time_of(value: object) -> datetime | None:
    """Returns a time in Unix seconds; None for any other value."""
    if not isinstance(value, int) or not 0 < value < _YEAR_9999:
        return None
    return datetime.fromtimestamp(value, UTC)


def _malformed(holder: Json, name: str) -> NoReturn:
    raise MalformedObjectError(f"{holder.get('object')!s:.40} {holder.get('id')!s:.80} has no usable {name}")
