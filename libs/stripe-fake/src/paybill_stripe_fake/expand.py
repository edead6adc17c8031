"""Implements `expand[]`: replaces ids in a response with the resources."""

from typing import Any

from paybill_stripe_fake import checkout, invoices, refunds
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.lists import list_object
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import ENDED

MAX_PATHS = 20
_MAX_DEPTH = 4
_KINDS = {
    "cus": "customer",
    "ch": "charge",
    "du": "dispute",
    "ii": "invoiceitem",
    "in": "invoice",
    "mtr": "billing.meter",
    "pi": "payment_intent",
    "pm": "payment_method",
    "price": "price",
    "prod": "product",
    "re": "refund",
    "sub": "subscription",
}
_OF_STEP = {"product": "product", "schedule": "subscription_schedule", "configuration": "billing_portal.configuration"}
# The field `id` would expand to its own resource; products may have ids that look like any other.
_NEVER = frozenset({"id", "object", "client_reference_id", "description", "name", "email", "nickname"})


def expanded(account: Account, resource: Resource, paths: list[str]) -> Resource:
    """Returns the resource with every path of `expand[]` filled in; refuses an invalid path."""
    for path in paths:
        steps = path.split(".")
        if len(steps) > _MAX_DEPTH:
            raise InvalidRequestError(
                f"You cannot expand more than {_MAX_DEPTH} levels of a property (property: {path[:200]}).",
                param="expand",
            )
        resource = _expand(account, resource, steps, path)
    return resource


def _expand(account: Account, resource: Resource, steps: list[str], path: str) -> Resource:
    step, rest = steps[0], steps[1:]
    if step in _NEVER or (step not in resource and (resource.get("object"), step) not in _LISTS):
        raise InvalidRequestError(f"This property cannot be expanded ({path[:200]}).", param="expand")
    value = resource[step] if step in resource else _LISTS[resource["object"], step](account, resource)
    return {**resource, step: _filled(account, value, step, rest, path)}


def _filled(account: Account, value: Any, step: str, rest: list[str], path: str) -> Any:
    match value:
        case str():
            kind = _OF_STEP.get(step) or _KINDS.get(value.split("_")[0], "")
            found = account.store.find(kind, value)
            if found is None:
                raise InvalidRequestError(f"This property cannot be expanded ({path[:200]}).", param="expand")
            return _expand(account, found, rest, path) if rest else found
        case list():
            return [_filled(account, element, step, rest, path) for element in value]
        case dict():
            return _expand(account, value, rest, path) if rest else value
        case None:
            return None
        case _:
            raise InvalidRequestError(f"This property cannot be expanded ({path[:200]}).", param="expand")


def _subscriptions(account: Account, customer: Resource) -> Resource:
    subscriptions = [
        subscription
        for subscription in account.store.newest_first("subscription")
        if subscription["customer"] == customer["id"] and subscription["status"] not in ENDED
    ]
    shown = 10
    url = f"/v1/customers/{customer['id']}/subscriptions"
    return list_object(subscriptions[:shown], url, has_more=len(subscriptions) > shown)


_LISTS = {
    ("charge", "refunds"): refunds.of_charge,
    ("checkout.session", "line_items"): checkout.line_items,
    ("customer", "subscriptions"): _subscriptions,
    ("invoice", "payments"): invoices.payments_of,
}
"""Lists that are shown only when expanded."""
