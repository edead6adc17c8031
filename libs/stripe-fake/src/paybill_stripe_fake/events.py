"""Events: changes of the account, each with the resource as it was then."""

from fnmatch import fnmatchcase
from typing import Any

from paybill_stripe_fake import API_VERSION, deliveries
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import InvalidRequestError, ResourceMissingError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page, shortened
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.thin_events import KEPT_S

_MAX_TYPES = 20


def emit(account: Account, kind: str, resource: Resource, previous: Resource | None = None) -> Resource:
    """Records an event and queues it for the webhook endpoints."""
    data: Resource = {"object": resource}
    if previous is not None:
        data["previous_attributes"] = previous
    event = {
        "id": new_id("evt"),
        "object": "event",
        "api_version": API_VERSION,
        "created": account.now(),
        "data": data,
        "livemode": False,
        "pending_webhooks": 0,
        "request": {"id": account.request.id, "idempotency_key": account.request.idempotency_key},
        "type": kind,
    }
    account.put(event)
    deliveries.enqueue(account, event)
    return event


def create(account: Account, resource: Resource, event: str | None = None) -> Resource:
    """Stores a new resource and emits its event."""
    account.put(resource)
    emit(account, event or f"{resource['object']}.created", resource)
    return resource


def change(account: Account, resource: Resource, changes: Resource, event: str | None = None) -> Resource:
    """Replaces attributes of a resource and emits the old values; emits nothing when nothing changes."""
    after = {**resource, **changes}
    previous = _previous(resource, after)
    if previous:
        account.put(after)
        emit(account, event or f"{resource['object']}.updated", after, previous)
    return after


def rendered(account: Account, event: Resource) -> Resource:
    """Returns the event as the API shows it now."""
    return {**event, "data": shortened(event["data"]), "pending_webhooks": deliveries.undelivered(account, event["id"])}


def retrieve(account: Account, _params: Params, event_id: str) -> Resource:
    """Returns one event of the last 30 days."""
    event = account.get("event", event_id)
    if event["created"] <= account.now() - KEPT_S:
        raise ResourceMissingError("event", event_id)
    return rendered(account, event)


def list_events(account: Account, params: Params) -> Resource:
    """Lists events of the last 30 days, newest first."""
    oldest = account.now() - KEPT_S
    pattern = params.text("type", longest=200)
    kinds = params.texts("types", most=_MAX_TYPES)
    if pattern and kinds:
        raise InvalidRequestError(
            "You may only specify one of these parameters: type, types.", code="parameters_exclusive", param="types"
        )
    delivered = params.flag("delivery_success")
    created = params.within("created")

    def matches(event: Resource) -> bool:
        return (
            event["created"] > oldest
            and (pattern is None or fnmatchcase(event["type"], pattern))
            and (kinds is None or event["type"] in kinds)
            and created(event["created"])
            and (delivered is None or delivered == (deliveries.undelivered(account, event["id"]) == 0))
        )

    found = page(account, params, "event", matches, "/v1/events")
    return {**found, "data": [rendered(account, event) for event in found["data"]]}


def _previous(before: Any, after: Any) -> Resource:
    """Returns the old values of changed attributes, recursively through objects; lists and list objects as a whole."""
    previous: Resource = {}
    for key, old in before.items():
        new = after.get(key)
        if old == new:
            continue
        nested = isinstance(old, dict) and isinstance(new, dict) and old.get("object") != "list"
        previous[key] = _previous(old, new) if nested else old
    return previous | {key: None for key in after if key not in before}


ENDPOINTS = [("GET", "/v1/events", list_events), ("GET", "/v1/events/{id}", retrieve)]
