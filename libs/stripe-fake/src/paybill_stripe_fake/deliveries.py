"""Webhook deliveries: the endpoints and copies of each event, and the outcome of each attempt.

A delivery's id is its event's id and a number. Due times are real time, whatever the account's clock shows.
"""

import hashlib
import time
from typing import Any

from paybill_stripe_fake import thin_events
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.store import Resource

STATIC_ID = "we_commandline"
PAYLOADS = ("snapshot", "thin", "both")
MAX_COPIES = 100
_ATTEMPTS_KEPT = 10
_MAX_LISTED = 1000
_MAX_LOST_TYPES = 100
_STATES = ("pending", "delivered", "lost", "dropped")
_MAX_DELAY_S = 3600
_NO_FAULTS = {
    "duplicate": 1,
    "reorder": False,
    "shuffle": False,
    "delay_s": 0.0,
    "lose_next": 0,
    "lose_types": [],
}


def enqueue(account: Account, event: Resource) -> None:
    """Queues an event for every subscribed endpoint, subject to the active faults."""
    subscribed = _subscribed(account, event)
    if not subscribed:
        return
    active = faults(account)
    lose_next = active["lose_next"] > 0 and event["type"] not in active["lose_types"]
    if lose_next:
        account.store.put("setting", "faults", {**active, "lose_next": active["lose_next"] - 1})
    for endpoint, payload, kind in subscribed:
        is_lost = lose_next or kind in active["lose_types"]
        for _ in range(1 if is_lost else active["duplicate"]):
            _queue(account, event, endpoint, payload, kind, "lost" if is_lost else "pending", delay_s=active["delay_s"])


def redeliver(account: Account, event: Resource) -> list[Resource]:
    """Queues an event once more for every subscribed endpoint; faults do not apply."""
    return [
        _queue(account, event, endpoint, payload, kind, "pending")
        for endpoint, payload, kind in _subscribed(account, event)
    ]


def payloads(account: Account, endpoint_id: str) -> str:
    """Returns the payload style of an endpoint: snapshot, thin or both."""
    stored = account.store.find("payload", endpoint_id)
    if stored is None:
        return account.static_payload if endpoint_id == STATIC_ID else "snapshot"
    return str(stored["payload"])


def of_event(account: Account, event_id: str) -> list[Resource]:
    """Returns all deliveries of an event, oldest first."""
    found: list[Resource] = []
    while delivery := account.store.find("delivery", f"{event_id}.{len(found) + 1}"):
        found.append(delivery)
    return found


def undelivered(account: Account, event_id: str) -> int:
    """Returns the number of undelivered pairs of endpoint and payload style for an event."""
    tried = of_event(account, event_id)
    had = {_place(delivery) for delivery in tried if delivery["state"] == "delivered"}
    return len({_place(delivery) for delivery in tried if delivery["state"] != "dropped"} - had)


def due(account: Account, endpoint_id: str, now: float) -> list[Resource]:
    """Returns the deliveries that are due for an endpoint, in sending order."""
    found = [delivery for delivery in pending(account, endpoint_id) if delivery["due_at"] <= now]
    active = faults(account)
    if active["shuffle"]:
        return sorted(found, key=_chance)
    return found[::-1] if active["reorder"] else found


def pending(account: Account, endpoint_id: str | None = None) -> list[Resource]:
    """Returns the deliveries that are not sent yet, due now or later."""
    queued = (account.store.find("delivery", marker["id"]) for marker in account.store.oldest_first("pending"))
    return [found for found in queued if found is not None and endpoint_id in {None, found["endpoint"]}]


def record(account: Account, delivery: Resource, *, status: int | None, error: str | None, retry_s: float) -> None:
    """Records the outcome of an attempt; without a 2xx the next one is due in `retry_s` seconds."""
    attempt: Resource = {"at": time.time(), "status": status, "error": error}
    done = error is None
    outcome = {
        **delivery,
        "state": "delivered" if done else "pending",
        "attempts": delivery["attempts"] + 1,
        "last_attempts": [*delivery["last_attempts"], attempt][-_ATTEMPTS_KEPT:],
        "due_at": None if done else attempt["at"] + retry_s,
    }
    account.store.put("delivery", delivery["id"], outcome)
    if done:
        account.store.delete("pending", delivery["id"])


def drop(account: Account, endpoint_id: str) -> None:
    """Drops the queued deliveries of a removed endpoint."""
    for delivery in pending(account, endpoint_id):
        account.store.put("delivery", delivery["id"], {**delivery, "state": "dropped", "due_at": None})
        account.store.delete("pending", delivery["id"])


def faults(account: Account) -> dict[str, Any]:
    """Returns the active delivery faults."""
    return {**_NO_FAULTS, **(account.store.find("setting", "faults") or {})}


def paused(account: Account) -> bool:
    """Returns whether delivery is paused."""
    return account.store.find("setting", "paused") is not None


def set_paused(account: Account, *, paused: bool) -> None:
    """Pauses or resumes delivery; an attempt in progress is finished."""
    if paused:
        account.store.put("setting", "paused", {})
    else:
        account.store.delete("setting", "paused")


def set_faults(account: Account, params: Params) -> dict[str, Any]:
    """Sets the passed faults and leaves the others unchanged.

    duplicate: how many copies of each event are sent, 1 to 100.
    reorder: whether the newest queued event is sent first. shuffle: in random order.
    delay_s: each copy waits a random time up to this many seconds before its first attempt.
    lose: how many of the next events are never sent, or a list of types that never are; 0 ends it.
    """
    changed = dict(faults(account))
    copies, reorder = params.integer("duplicate", least=1, most=MAX_COPIES), params.flag("reorder")
    changed.update({} if copies is None else {"duplicate": copies})
    changed.update({} if reorder is None else {"reorder": reorder})
    shuffle, delay = params.flag("shuffle"), params.decimal("delay_s")
    changed.update({} if shuffle is None else {"shuffle": shuffle})
    changed.update({} if delay is None else {"delay_s": min(float(delay), _MAX_DELAY_S)})
    if params.has("lose"):
        changed.update(_loss(params))
    account.store.put("setting", "faults", changed)
    return changed


def list_deliveries(account: Account, params: Params) -> Resource:
    """Lists deliveries, oldest first, filtered by event or state; the last `limit` of them."""
    event, state = params.text("event"), params.choice("state", *_STATES)
    limit = params.integer("limit", least=1, most=_MAX_LISTED) or _MAX_LISTED
    candidates = of_event(account, event) if event else account.store.oldest_first("delivery")
    found = [delivery for delivery in candidates if state in {None, delivery["state"]}]
    return {"data": found[-limit:], "total": len(found), "pending": len(account.store.oldest_first("pending"))}


def _loss(params: Params) -> Resource:
    try:
        return {"lose_next": params.integer("lose", most=1_000_000) or 0, "lose_types": []}
    except InvalidRequestError:
        return {"lose_next": 0, "lose_types": params.texts("lose", most=_MAX_LOST_TYPES) or []}


def _subscribed(account: Account, event: Resource) -> list[tuple[Resource, str, str]]:
    """Returns the endpoints subscribed to an event, each with payload style and event type in that style."""
    forms = {"thin": thin_events.name_of(event)}
    if event["object"] == "event":
        forms = {"snapshot": event["type"], **forms}
    return [
        (endpoint, payload, kind)
        for endpoint in account.store.oldest_first("webhook_endpoint")
        if endpoint["status"] == "enabled"
        for payload, kind in forms.items()
        if kind is not None and payloads(account, endpoint["id"]) in {payload, "both"}
        if {"*", *forms.values()} & set(endpoint["enabled_events"])
    ]


def _place(delivery: Resource) -> tuple[str, str]:
    return delivery["endpoint"], delivery.get("payload", "snapshot")


def _chance(delivery: Resource) -> float:
    """Returns a pseudo-random number from 0 to 1 that is constant for one delivery."""
    return int.from_bytes(hashlib.sha256(delivery["id"].encode()).digest()[:4]) / 2**32


def _queue(
    account: Account,
    event: Resource,
    endpoint: Resource,
    payload: str,
    kind: str,
    state: str,
    *,
    delay_s: float = 0.0,
) -> Resource:
    identifier = f"{event['id']}.{len(of_event(account, event['id'])) + 1}"
    delivery = {
        "id": identifier,
        "event": event["id"],
        "type": kind,
        "payload": payload,
        "endpoint": endpoint["id"],
        "state": state,
        "attempts": 0,
        "last_attempts": [],
        "due_at": None,
    }
    if state == "pending":
        delivery["due_at"] = time.time() + _chance(delivery) * delay_s
    account.store.put("delivery", identifier, delivery)
    if state == "pending":
        account.store.put("pending", identifier, {"id": identifier})
    return delivery
