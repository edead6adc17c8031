"""Thin events: notifications with little more than the changed object's id, copied from snapshots; and their API (v2).

A copy's id is derived from its snapshot's, so that only events without a snapshot are stored here.
Source: https://docs.stripe.com/event-destinations, and the event classes of the SDK.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import InvalidRequestError, ResourceMissingError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.store import Resource

KEPT_S = 30 * 86_400
"""Time for which the API shows an event; deliveries and the control routes keep it permanently."""

_ID = "evt_test_"
_MAX_TYPES = 20
_DEFAULT_LIMIT, _MAX_LIMIT = 20, 100
_PATHS = {
    "billing.meter": "/v1/billing/meters/",
    "billing_portal.configuration": "/v1/billing_portal/configurations/",
    "charge": "/v1/charges/",
    "checkout.session": "/v1/checkout/sessions/",
    "customer": "/v1/customers/",
    "dispute": "/v1/disputes/",
    "invoice": "/v1/invoices/",
    "invoice_payment": "/v1/invoice_payments/",
    "invoiceitem": "/v1/invoiceitems/",
    "payment_intent": "/v1/payment_intents/",
    "payment_method": "/v1/payment_methods/",
    "price": "/v1/prices/",
    "product": "/v1/products/",
    "refund": "/v1/refunds/",
    "subscription": "/v1/subscriptions/",
    "subscription_schedule": "/v1/subscription_schedules/",
}


def name_of(event: Resource) -> str | None:
    """Returns the type of the event's thin form, or None if its object has no address."""
    if event["object"] == "v2.core.event":
        return str(event["type"])
    return f"v1.{event['type']}" if event["data"]["object"]["object"] in _PATHS else None


def notification(event: Resource) -> Resource:
    """Returns the notification of an event: the thin copy of a snapshot, or the thin event itself."""
    if event["object"] == "v2.core.event":
        return {key: value for key, value in event.items() if key not in {"data", "changes"}}
    resource = event["data"]["object"]
    return {
        "id": _ID + event["id"].removeprefix("evt_"),
        "object": "v2.core.event",
        "context": None,
        "created": iso(event["created"]),
        "livemode": event["livemode"],
        "reason": _reason(event),
        "related_object": related_to(resource),
        "snapshot_event": event["id"],
        "type": name_of(event),
    }


def whole(event: Resource) -> Resource:
    """Returns the event as the API shows it: with `changes`."""
    if event["object"] == "v2.core.event":
        return event
    before: Resource | None = event["data"].get("previous_attributes")
    changes = before and {"before": before, "after": _now(event["data"]["object"], before)}
    return {**notification(event), "changes": changes}


def new(account: Account, kind: str, related: Resource | None, data: Resource) -> Resource:
    """Stores and returns an event that has no snapshot."""
    event = {
        "id": new_id("evt_test"),
        "object": "v2.core.event",
        "changes": None,
        "context": None,
        "created": iso(account.now()),
        "data": data,
        "livemode": False,
        "reason": None,
        "related_object": related and related_to(related),
        "snapshot_event": None,
        "type": kind,
    }
    return account.put({key: value for key, value in event.items() if key != "related_object" or value})


def retrieve(account: Account, _params: Params, event_id: str) -> Resource:
    """Returns one event of the last 30 days."""
    event = account.store.find("v2.core.event", event_id) or account.store.find(
        "event", "evt_" + event_id.removeprefix(_ID)
    )
    if event is None or name_of(event) is None or not event_id.startswith(_ID) or _at(event) <= account.now() - KEPT_S:
        raise ResourceMissingError("event", event_id[:200])
    return whole(event)


def list_events(account: Account, params: Params) -> Resource:
    """Lists events of the last 30 days, newest first."""
    limit = params.integer("limit", least=1, most=_MAX_LIMIT) or _DEFAULT_LIMIT
    object_id, types = params.text("object_id"), params.texts("types", most=_MAX_TYPES)
    created, after = _within(params), params.text("page", longest=100)
    oldest = account.now() - KEPT_S
    stored = [*account.store.oldest_first("event"), *account.store.oldest_first("v2.core.event")]
    shown = [
        whole(event)
        for event in sorted(stored, key=_at)[::-1]
        if _at(event) > oldest and created(_at(event)) and name_of(event) is not None
    ]
    matching = [
        event
        for event in shown
        if types is None or event["type"] in types
        if object_id is None or (event.get("related_object") or {}).get("id") == object_id
    ]
    ids = [event["id"] for event in matching]
    if after is not None and after not in ids:
        raise InvalidRequestError("The page does not exist.", param="page")
    start = ids.index(after) if after else 0
    found, rest = matching[start : start + limit], matching[start + limit :]
    query: list[tuple[str, Any]] = [("limit", limit), *((f"types[{i}]", kind) for i, kind in enumerate(types or []))]
    query += [("object_id", object_id)] if object_id else []
    next_url = "/v2/core/events?" + urlencode([*query, ("page", rest[0]["id"])]) if rest else None
    return {"data": found, "next_page_url": next_url, "previous_page_url": None}


def find(account: Account, identifier: str) -> Resource | None:
    """Returns the resource with this id, among the kinds that thin events can be about."""
    return next((found for kind in _PATHS if (found := account.store.find(kind, identifier))), None)


def related_to(resource: Resource) -> Resource:
    """Returns the reference by which an event names its object."""
    path = _PATHS[resource["object"]]
    return {"id": resource["id"], "type": resource["object"], "url": f"{path}{resource['id']}"}


def _reason(event: Resource) -> Resource | None:
    request = event["request"]
    if request["id"] is None:
        return None
    return {
        "type": "request",
        "request": {"id": request["id"], "idempotency_key": request["idempotency_key"] or ""},
    }


def _now(resource: Any, previous: Resource) -> Resource:
    """Returns the current values of the attributes in `previous`."""
    return {
        key: _now(resource[key], old)
        if isinstance(old, dict) and old.get("object") != "list" and isinstance(resource.get(key), dict)
        else resource.get(key)
        for key, old in previous.items()
    }


def _at(event: Resource) -> int:
    return event["created"] if event["object"] == "event" else seconds(event["created"])


def _within(params: Params) -> Callable[[int], bool]:
    created = params.nested("created") or Params({})
    bounds = {key: created.text(key, longest=40) for key in ("gt", "gte", "lt", "lte")}
    limits = {key: _bound(value, key) for key, value in bounds.items() if value}
    return lambda at: (
        limits.get("gt", at - 1) < at
        and limits.get("gte", at) <= at
        and limits.get("lt", at + 1) > at
        and limits.get("lte", at) >= at
    )


def _bound(text: str, key: str) -> int:
    try:
        return seconds(text)
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError(f"Invalid timestamp: {text}", param=f"created[{key}]") from error


def seconds(text: str) -> int:
    """Returns Unix seconds of a time in the format of API version 2."""
    return int(datetime.fromisoformat(text).timestamp())


def iso(time: int) -> str:
    """Returns a time in the format of API version 2."""
    return datetime.fromtimestamp(time, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


ENDPOINTS = [("GET", "/v2/core/events", list_events), ("GET", "/v2/core/events/{id}", retrieve)]
