"""Changes of a subscription: items, end, trial and card, with their prorations."""

from typing import Any

from paybill_stripe_fake import adjustments, periods, prices, prorations, replaced_usage
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.errors import CardDeclinedError, InvalidRequestError, ResourceMissingError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.pauses import read_pause_collection
from paybill_stripe_fake.payment_methods import attach_named
from paybill_stripe_fake.prorations import Prorating
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import ENDED, change, existing_customer, period_of
from paybill_stripe_fake.terms import (
    MAX_ITEMS,
    check_prices,
    new_item,
    read_items,
    read_price,
    read_quantity,
    read_trial_end,
    read_trial_settings,
    rhythm,
)

_FEEDBACK = (
    "customer_service",
    "low_quality",
    "missing_features",
    "other",
    "switched_service",
    "too_complex",
    "too_expensive",
    "unused",
)
_UNCHANGEABLE = ENDED | {"incomplete"}


def update(account: Account, params: Params, subscription_id: str) -> Resource:
    """Changes the passed attributes."""
    subscription = account.get("subscription", subscription_id)
    _refuse_if_ended(params, subscription)
    return apply(account, params, subscription)


def apply(account: Account, params: Params, subscription: Resource) -> Resource:
    """Applies the changes of an update or its preview; every check precedes the first change."""
    behaviour = params.choice("payment_behavior", "allow_incomplete", "default_incomplete", "error_if_incomplete")
    params.flag("off_session")
    prorating = prorations.read(account, params, subscription)
    restart = _restart(params)
    changes = _labels(account, params, subscription) | _ending(account, params, subscription)
    trial = _trial(account, params, subscription)
    item_changes = params.many("items", most=MAX_ITEMS)
    after = None if item_changes is None else changed_items(account, item_changes, subscription)
    changed = change_items(account, subscription, after, prorating, changes=changes, restart=restart)
    if trial is not None and trial != account.now():
        changed = periods.change_trial_end(account, changed, trial)
    if trial == account.now():
        changed = periods.end_trial(account, changed, trial)
    refuse_if_unpaid(account, subscription, changed, behaviour)
    return changed


def change_items(
    account: Account,
    subscription: Resource,
    after: list[Resource] | None,
    prorating: Prorating,
    *,
    changes: Resource | None = None,
    restart: bool = False,
) -> Resource:
    """Replaces the subscription's items and other attributes, and charges for the difference.

    restart: starts a new period now even if the billing interval stays the same.
    """
    current, unbilled = subscription["items"]["data"], subscription["status"] in {"trialing", "paused"}
    restart = restart or (after is not None and rhythm(after[0]["price"]) != rhythm(current[0]["price"]))
    restart = restart and not unbilled
    if after is not None and not unbilled:
        replaced_usage.bill(account, subscription, after, (period_of(subscription)[0], account.now()))
    if prorating.behaviour != "none" and not unbilled and (restart or after is not None):
        prorations.charge(account, subscription, [] if restart else after or [], prorating.at)
    items = {} if after is None else {"items": {**subscription["items"], "data": after}}
    subscription = change(account, subscription, {**(changes or {}), **items})
    if restart:
        now = account.now()
        return periods.roll(account, subscription, begin=now, anchor=now, reason="subscription_update")
    if prorating.behaviour == "always_invoice" and after is not None:
        return periods.bill_now(account, subscription)
    return subscription


def refuse_if_unpaid(account: Account, before: Resource, after: Resource, behaviour: str | None) -> None:
    """Rolls the change back if its invoice was declined, with `error_if_incomplete`."""
    if behaviour != "error_if_incomplete" or before["latest_invoice"] == after["latest_invoice"]:
        return
    if account.get("invoice", after["latest_invoice"])["status"] == "open":
        raise CardDeclinedError(None, keep=False)


def cancel(account: Account, params: Params, subscription_id: str) -> Resource:
    """Ends a subscription now."""
    subscription = account.get("subscription", subscription_id)
    if subscription["status"] in ENDED:
        raise ResourceMissingError("subscription", subscription_id)
    details = _cancellation_details(params, subscription)
    prorate, invoice_now = params.flag("prorate") or False, params.flag("invoice_now") or False
    updated = {**subscription, "cancellation_details": details}
    return periods.finish(account, updated, "cancellation_requested", prorate=prorate, invoice_now=invoice_now)


def changed_items(account: Account, item_changes: list[Params], subscription: Resource) -> list[Resource]:
    """Returns the items with the passed ones changed, added or removed."""
    items = {item["id"]: item for item in subscription["items"]["data"]}
    for item_change in item_changes:
        identifier, deleted = item_change.text("id"), item_change.flag("deleted")
        if identifier is None:
            [(price, quantity, metadata)] = read_items(account, [item_change])
            added = new_item(account, subscription["id"], price, quantity, metadata, period_of(subscription))
            items[added["id"]] = added
            continue
        if identifier not in items:
            raise ResourceMissingError("subscription item", identifier, param=item_change.name("id"))
        if deleted:
            del items[identifier]
            continue
        items[identifier] = changed_item(account, item_change, items[identifier])
    kept = list(items.values())
    check_prices(account, [item["price"] for item in kept], subscription["customer"])
    if len(kept) > MAX_ITEMS:
        raise InvalidRequestError(f"A subscription has at most {MAX_ITEMS} items.", param="items")
    return kept


def changed_item(account: Account, params: Params, item: Resource) -> Resource:
    """Returns one item with price, quantity and metadata from the parameters."""
    price = item["price"]
    if params.has("price") or params.has("price_data"):
        price = read_price(account, params)
    quantity = read_quantity(params, price) if params.has("quantity") else item.get("quantity", 1)
    changed = {**item, "price": price, "plan": prices.plan_of(price), "metadata": params.metadata(item["metadata"])}
    for key, passed in (
        ("discounts", adjustments.read_discounts(account, params, None)),
        ("tax_rates", adjustments.read_tax_rates(account, params)),
    ):
        changed |= {} if passed is None else {key: passed}
    changed.pop("quantity", None)
    return changed if prices.is_metered(price) else {**changed, "quantity": quantity}


def _labels(account: Account, params: Params, subscription: Resource) -> Resource:
    changes: Resource = {"metadata": params.metadata(subscription["metadata"])}
    if params.has("description"):
        changes["description"] = params.text("description", longest=500)
    if card := params.text("default_payment_method"):
        customer = existing_customer(account, subscription["customer"])
        changes["default_payment_method"] = attach_named(account, customer, card, "default_payment_method")["id"]
    for key, passed in (
        ("discounts", adjustments.read_discounts(account, params, subscription["customer"])),
        ("default_tax_rates", adjustments.read_tax_rates(account, params, "default_tax_rates")),
    ):
        changes |= {} if passed is None else {key: passed}
    if params.has("pause_collection"):
        changes["pause_collection"] = read_pause_collection(account, params)
    if params.has("trial_settings"):
        changes["trial_settings"] = read_trial_settings(params)
    return changes


def _restart(params: Params) -> bool:
    """Returns whether `billing_cycle_anchor` requests a new period; older API versions pass the bare word."""
    try:
        anchor = params.nested("billing_cycle_anchor")
    except InvalidRequestError:
        return params.choice("billing_cycle_anchor", "now", "unchanged") == "now"
    return anchor is not None and anchor.choice("type", "now", "unchanged") == "now"


def _trial(account: Account, params: Params, subscription: Resource) -> int | None:
    """Returns the new end of the trial: now, another time, or None for no change."""
    if not params.has("trial_end"):
        return None
    now = params.text("trial_end") == "now"
    until = account.now() if now else read_trial_end(account, params)
    if subscription["status"] == "trialing":
        return until
    if not now:
        raise InvalidRequestError("Only a subscription on trial can get another trial_end.", param="trial_end")
    return None


def _ending(account: Account, params: Params, subscription: Resource) -> Resource:
    """Returns the changes for a scheduled cancellation, or for its removal."""
    changes: Resource = {"cancellation_details": _cancellation_details(params, subscription)}
    at_period_end = params.flag("cancel_at_period_end")
    finish = period_of(subscription)[1]
    if params.text("cancel_at") in {"min_period_end", "max_period_end"}:
        cancel_at: int | None = finish
    else:
        cancel_at = params.integer("cancel_at", least=account.now() + 1)
    if at_period_end and cancel_at:
        raise InvalidRequestError(
            "You can use only one of cancel_at and cancel_at_period_end.",
            code="parameters_exclusive",
            param="cancel_at",
        )
    if at_period_end is None and not params.has("cancel_at"):
        return changes
    if subscription["schedule"]:
        raise InvalidRequestError(
            f"The subscription is managed by the subscription schedule `{subscription['schedule']}`, and updating any "
            "cancelation behavior directly is not allowed. Please update the schedule instead.",
            param="cancel_at_period_end",
        )
    until = finish if at_period_end else cancel_at
    details = changes["cancellation_details"]
    return {
        "cancel_at": until,
        "cancel_at_period_end": bool(at_period_end),
        "canceled_at": (subscription["canceled_at"] or account.now()) if until else None,
        "cancellation_details": {**details, "reason": "cancellation_requested" if until else None},
    }


def _cancellation_details(params: Params, subscription: Resource) -> dict[str, Any]:
    details = dict(subscription["cancellation_details"])
    if passed := params.nested("cancellation_details"):
        details |= {"comment": passed.text("comment"), "feedback": passed.choice("feedback", *_FEEDBACK)}
    return details


def _refuse_if_ended(params: Params, subscription: Resource) -> None:
    harmless = {"metadata", "cancellation_details"}
    if subscription["status"] not in _UNCHANGEABLE or not params.names() - harmless:
        return
    message = f"A subscription that is {subscription['status']} can only update its {' and '.join(sorted(harmless))}."
    code = "invalid_canceled_subscription_fields" if subscription["status"] in ENDED else None
    raise InvalidRequestError(message, code=code)


ENDPOINTS = [
    ("POST", "/v1/subscriptions/{id}", update),
    ("DELETE", "/v1/subscriptions/{id}", cancel),
]
