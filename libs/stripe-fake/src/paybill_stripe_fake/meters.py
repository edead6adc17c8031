"""Meters: usage reported as events, aggregated and billed after the period."""

from decimal import Decimal

from paybill_stripe_fake import events, meter_errors
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page, page_of
from paybill_stripe_fake.store import Resource

_UNIQUE_S = 24 * 3600
_OLDEST_S = 35 * 86_400
_AHEAD_S = 5 * 60
_MAX_KEYS = 20
_WINDOWS = {"hour": 3600, "day": 86_400}
_MAX_BUCKETS = 1000
_FORMULAS = ("sum", "count", "last")


def create(account: Account, params: Params) -> Resource:
    """Creates a meter for events of a name."""
    name = params.required("event_name", longest=100)
    if active(account, name) is not None:
        raise InvalidRequestError(
            f"A meter with event_name '{name}' already exists.", code="resource_already_exists", param="event_name"
        )
    display_name = params.required("display_name", longest=250)
    aggregation = params.nested("default_aggregation") or Params({}, "default_aggregation")
    aggregation.required("formula")
    mapping, value = params.nested("customer_mapping"), params.nested("value_settings")
    if mapping is not None:
        mapping.choice("type", "by_id")
    now = account.now()
    meter = {
        "id": new_id("mtr"),
        "object": "billing.meter",
        "created": now,
        "customer_mapping": {
            "event_payload_key": mapping.required("event_payload_key") if mapping else "stripe_customer_id",
            "type": "by_id",
        },
        "default_aggregation": {"formula": aggregation.choice("formula", *_FORMULAS)},
        "display_name": display_name,
        "event_name": name,
        "event_time_window": params.choice("event_time_window", *_WINDOWS),
        "livemode": False,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": now,
        "value_settings": {"event_payload_key": value.required("event_payload_key") if value else "value"},
    }
    return events.create(account, meter)


def retrieve(account: Account, _params: Params, meter_id: str) -> Resource:
    """Returns one meter."""
    return account.get("billing.meter", meter_id)


def list_meters(account: Account, params: Params) -> Resource:
    """Lists meters, newest first."""
    status = params.choice("status", "active", "inactive")
    return page(account, params, "billing.meter", lambda meter: status in {None, meter["status"]}, "/v1/billing/meters")


def update(account: Account, params: Params, meter_id: str) -> Resource:
    """Changes the display name."""
    meter = account.get("billing.meter", meter_id)
    changes = {"display_name": params.text("display_name", longest=250) or meter["display_name"]}
    return events.change(account, meter, {**changes, "updated": account.now()})


def deactivate(account: Account, _params: Params, meter_id: str) -> Resource:
    """Stops accepting events."""
    meter, now = account.get("billing.meter", meter_id), account.now()
    changes = {"status": "inactive", "status_transitions": {"deactivated_at": now}, "updated": now}
    return events.change(account, meter, changes, "billing.meter.deactivated")


def reactivate(account: Account, _params: Params, meter_id: str) -> Resource:
    """Accepts events again."""
    meter = account.get("billing.meter", meter_id)
    changes = {"status": "active", "status_transitions": {"deactivated_at": None}, "updated": account.now()}
    return events.change(account, meter, changes, "billing.meter.reactivated")


def report(account: Account, params: Params) -> Resource:
    """Records usage; the same identifier within 24 hours is refused, as by Stripe, and so counted once."""
    name = params.required("event_name", longest=100)
    at = params.integer("timestamp")
    return take(account, name, read_payload(params), account.now() if at is None else at, read_identifier(params))


def read_payload(params: Params) -> dict[str, str]:
    """Returns the payload of an event: customer and value."""
    payload = params.nested("payload") or Params({}, "payload")
    if len(payload.names()) > _MAX_KEYS:
        raise InvalidRequestError(f"The payload has at most {_MAX_KEYS} keys.", param="payload")
    return {key: payload.required(key, longest=500) for key in sorted(payload.names())}


def read_identifier(params: Params) -> str:
    """Returns the identifier that deduplicates an event; a new one if absent."""
    return params.text("identifier", longest=100) or new_id("mevt")


def take(account: Account, name: str, payload: dict[str, str], at: int, identifier: str) -> Resource:
    """Counts an event; an error has one of Stripe's codes."""
    now = account.now()
    if not now - _OLDEST_S <= at <= now + _AHEAD_S:
        raise InvalidRequestError(
            "The timestamp must be within the past 35 calendar days or up to 5 minutes in the future.",
            code="timestamp_too_far_in_past" if at < now else "timestamp_in_future",
            param="timestamp",
        )
    meter = active(account, name)
    if meter is None:
        raise InvalidRequestError(
            f"No active meter found for event name '{name}'.", code="no_meter", param="event_name"
        )
    key = meter["customer_mapping"]["event_payload_key"]
    if key not in payload:
        raise InvalidRequestError(
            f"The payload lacks the key '{key}'.", code="meter_event_no_customer_defined", param="payload"
        )
    customer, value = payload[key], _value(meter, payload)
    stored = account.store.find("meter_identifier", identifier)
    if stored is not None and stored["at"] > now - _UNIQUE_S:
        error = InvalidRequestError(
            f"An event already exists with identifier {identifier}.", code="duplicate_meter_event", param="identifier"
        )
        error.headers = {"Stripe-Should-Retry": "false"}
        raise error
    kind, number = _kind(meter["id"], customer), new_id("mevt")
    account.store.put("meter_identifier", identifier, {"at": now, "kind": kind, "key": number})
    account.store.put(kind, number, {"timestamp": at, "value": str(value)})
    if account.store.find("customer", customer) is None:
        # It is accepted, and never billed: Stripe resolves the customer later, and reports the error by a thin event.
        message = "The customer of the event does not exist."
        meter_errors.report(account, meter, "meter_event_customer_not_found", message, identifier)
    return {
        "object": "billing.meter_event",
        "created": now,
        "event_name": name,
        "identifier": identifier,
        "livemode": False,
        "payload": payload,
        "timestamp": at,
    }


def adjust(account: Account, params: Params) -> Resource:
    """Cancels an event of the last 24 hours."""
    name = params.required("event_name", longest=100)
    params.required("type")
    params.choice("type", "cancel")
    cancel = params.nested("cancel") or Params({}, "cancel")
    identifier = cancel.required("identifier", longest=100)
    stored = account.store.find("meter_identifier", identifier)
    if stored is None or stored["at"] <= account.now() - _UNIQUE_S:
        raise InvalidRequestError(
            f"No event of the last 24 hours has the identifier {identifier}.",
            code="resource_missing",
            param="cancel[identifier]",
        )
    account.store.delete(stored["kind"], stored["key"])
    return {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": identifier},
        "event_name": name,
        "livemode": False,
        "status": "pending",
        "type": "cancel",
    }


def list_summaries(account: Account, params: Params, meter_id: str) -> Resource:
    """Returns a customer's usage between two times, in total or by hour or day; newest first."""
    meter = account.get("billing.meter", meter_id)
    customer = params.required("customer")
    start, end = _aligned(params, "start_time"), _aligned(params, "end_time")
    window = params.choice("value_grouping_window", *_WINDOWS)
    step = _WINDOWS[window] if window else max(end - start, 1)
    if end <= start or (end - start) / step > _MAX_BUCKETS:
        raise InvalidRequestError(
            f"end_time must be after start_time, by at most {_MAX_BUCKETS} windows.", param="end_time"
        )
    found = [
        _summary(account, meter, customer, begin, min(begin + step, end))
        for begin in range(start - start % step if window else start, end, step)
    ]
    shown = [summary for summary in reversed(found) if not window or summary["aggregated_value"]]
    return page_of(params, shown, lambda _: True, f"/v1/billing/meters/{meter_id}/event_summaries")


def usage(account: Account, meter_id: str, customer: str, start: int, end: int) -> Decimal:
    """Returns a customer's usage from `start` until before `end`, aggregated by the meter's formula."""
    meter = account.get("billing.meter", meter_id)
    found = [one for one in account.store.oldest_first(_kind(meter_id, customer)) if start <= one["timestamp"] < end]
    match meter["default_aggregation"]["formula"]:
        case "count":
            return Decimal(len(found))
        case "last":
            return Decimal(max(found, key=lambda one: one["timestamp"])["value"]) if found else Decimal(0)
        case _:
            return sum((Decimal(one["value"]) for one in found), Decimal(0))


def _summary(account: Account, meter: Resource, customer: str, start: int, end: int) -> Resource:
    value = usage(account, meter["id"], customer, start, end)
    return {
        "id": f"mtrusg_{meter['id'][4:]}{customer[4:]}{start}",
        "object": "billing.meter_event_summary",
        "aggregated_value": float(value),
        "end_time": end,
        "livemode": False,
        "meter": meter["id"],
        "start_time": start,
    }


def _value(meter: Resource, payload: dict[str, str]) -> Decimal:
    key = meter["value_settings"]["event_payload_key"]
    if key not in payload and meter["default_aggregation"]["formula"] == "count":
        return Decimal(1)
    sign = -1 if payload.get(key, "").startswith("-") else 1
    try:
        number = Params({key: payload.get(key, "").removeprefix("-")}, "payload").decimal(key)
    except InvalidRequestError as error:
        error.code = "meter_event_invalid_value"
        raise
    if number is None:
        raise InvalidRequestError(
            f"The payload lacks the key '{key}'.", code="meter_event_invalid_value", param="payload"
        )
    return sign * number


def active(account: Account, event_name: str) -> Resource | None:
    """Returns the active meter for events of this name."""
    for meter in account.store.oldest_first("billing.meter"):
        if meter["event_name"] == event_name and meter["status"] == "active":
            return meter
    return None


def _aligned(params: Params, key: str) -> int:
    params.required(key)
    value = params.integer(key) or 0
    if value % 60:
        raise InvalidRequestError(f"{key} must be aligned with minute boundaries.", param=key)
    return value


def _kind(meter_id: str, customer: str) -> str:
    # A separate kind for each customer, so that aggregation does not scan the usage of others.
    return f"usage {meter_id} {customer}"


ENDPOINTS = [
    ("POST", "/v1/billing/meters", create),
    ("GET", "/v1/billing/meters", list_meters),
    ("GET", "/v1/billing/meters/{id}", retrieve),
    ("POST", "/v1/billing/meters/{id}", update),
    ("POST", "/v1/billing/meters/{id}/deactivate", deactivate),
    ("POST", "/v1/billing/meters/{id}/reactivate", reactivate),
    ("GET", "/v1/billing/meters/{id}/event_summaries", list_summaries),
    ("POST", "/v1/billing/meter_events", report),
    ("POST", "/v1/billing/meter_event_adjustments", adjust),
]
