"""Subscriptions: a customer's recurring prices, from the first invoice to the end."""

from dataclasses import replace
from typing import Any

from paybill_stripe_fake import collection, events, invoices, prices
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.billing_cycle import period_end
from paybill_stripe_fake.errors import CardDeclinedError, InvalidRequestError, ResourceMissingError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page, page_of
from paybill_stripe_fake.payment_methods import attach_named, card_of
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import ENDED, RUNNING, change, end, living_customer, period_of
from paybill_stripe_fake.terms import (
    MAX_ITEMS,
    Terms,
    check_prices,
    new_item,
    new_subscription,
    read_items,
    read_price,
    read_quantity,
    read_trial_end,
    rhythm,
)

_STATUSES = ("active", "canceled", "incomplete", "incomplete_expired", "past_due", "paused", "trialing", "unpaid")
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


def start(account: Account, terms: Terms) -> tuple[Resource, Resource]:
    """Begin a subscription and draw up its first invoice; `incomplete` until that is paid, unless on trial."""
    subscription = new_subscription(account, terms)
    customer = account.get("customer", terms.customer)
    if customer["currency"] is None:
        events.change(account, customer, {"currency": subscription["currency"]})
    events.create(account, subscription, "customer.subscription.created")
    now = subscription["created"]
    invoice = invoices.draft(account, subscription, "subscription_create", past=(now, now), advance=True)
    return subscription, invoices.finalize(account, invoice)


def roll(account: Account, subscription: Resource, *, begin: int, anchor: int, reason: str) -> Resource:
    """Let a new period begin, bill for it and collect."""
    past = period_of(subscription)
    items = subscription["items"]
    recurring = items["data"][0]["price"]["recurring"]
    finish = period_end(anchor, begin, recurring["interval"], recurring["interval_count"])
    data = [{**item, "current_period_start": begin, "current_period_end": finish} for item in items["data"]]
    changes: Resource = {
        "items": {**items, "data": data},
        "billing_cycle_anchor": anchor,
        "latest_invoice": new_id("in"),
    }
    if subscription["status"] == "trialing":
        changes |= {"status": "active", "trial_end": begin}
    if subscription["cancel_at_period_end"]:
        changes["cancel_at"] = finish
    subscription = change(account, subscription, changes)
    collection.bill(account, subscription, reason, (past[0], min(past[1], begin)))
    return account.get("subscription", subscription["id"])


def create(account: Account, params: Params) -> Resource:
    """Subscribe a customer and charge the card on file, as `payment_behavior` says."""
    behaviour = params.choice("payment_behavior", "allow_incomplete", "default_incomplete", "error_if_incomplete")
    terms = _terms(account, params)
    params.choice("collection_method", "charge_automatically")
    params.choice("proration_behavior", "none", "create_prorations")
    params.flag("off_session")
    if not (terms.card or card_of(account, terms.customer) or behaviour == "default_incomplete" or terms.trial_end):
        raise InvalidRequestError(
            "This customer has no attached payment source or default payment method. "
            "Please consider adding a default payment method.",
            code="resource_missing",
        )
    subscription, invoice = start(account, terms)
    if invoice["status"] == "open" and behaviour != "default_incomplete":
        invoice = collection.collect(account, invoice)
        if invoice["status"] == "open" and behaviour == "error_if_incomplete":
            raise CardDeclinedError(None, keep=False)
    return account.get("subscription", subscription["id"])


def retrieve(account: Account, _params: Params, subscription_id: str) -> Resource:
    """One subscription, ended ones too."""
    return account.get("subscription", subscription_id)


def list_subscriptions(account: Account, params: Params) -> Resource:
    """Subscriptions, the last first; those that ended only if asked for by `status`."""
    customer, price, status = (
        params.text("customer"),
        params.text("price"),
        params.choice("status", *_STATUSES, "all", "ended"),
    )
    created = params.within("created")
    starts, ends = params.within("current_period_start"), params.within("current_period_end")

    def wanted(subscription: Resource) -> bool:
        ended = subscription["status"] in ENDED
        shown = {"all": True, "ended": ended, None: not ended}.get(status, subscription["status"] == status)
        start_at, end_at = period_of(subscription)
        return (
            shown
            and customer in {None, subscription["customer"]}
            and (price is None or any(item["price"]["id"] == price for item in subscription["items"]["data"]))
            and created(subscription["created"])
            and starts(start_at)
            and ends(end_at)
        )

    return page(account, params, "subscription", wanted, "/v1/subscriptions")


def list_items(account: Account, params: Params) -> Resource:
    """The items of one subscription."""
    items = account.get("subscription", params.required("subscription"), "subscription")["items"]
    return page_of(params, items["data"], lambda _: True, items["url"])


def update(account: Account, params: Params, subscription_id: str) -> Resource:
    """Change items, labels, the card or the end; prices change without proration."""
    subscription = account.get("subscription", subscription_id)
    _refuse_if_ended(params, subscription)
    changes: Resource = {"metadata": params.metadata(subscription["metadata"])}
    if params.has("description"):
        changes["description"] = params.text("description", longest=500)
    if card := params.text("default_payment_method"):
        customer = living_customer(account, subscription["customer"])
        changes["default_payment_method"] = attach_named(account, customer, card, "default_payment_method")["id"]
    params.choice("proration_behavior", "none", "create_prorations")
    changes |= _ending(account, params, subscription)
    given = params.many("items", most=MAX_ITEMS)
    if given is None:
        return change(account, subscription, changes)
    before = subscription["items"]["data"][0]["price"]
    items = _changed_items(account, given, subscription)
    changes["items"] = {**subscription["items"], "data": items}
    if rhythm(items[0]["price"]) == rhythm(before) or subscription["status"] == "trialing":
        return change(account, subscription, changes)
    # Another interval starts a period of its own at once.
    now = account.now()
    subscription = change(account, subscription, changes)
    return roll(account, subscription, begin=now, anchor=now, reason="subscription_update")


def cancel(account: Account, params: Params, subscription_id: str) -> Resource:
    """End a subscription now."""
    subscription = account.get("subscription", subscription_id)
    if subscription["status"] in ENDED:
        raise ResourceMissingError("subscription", subscription_id)
    details = _cancellation_details(params, subscription)
    return end(account, {**subscription, "cancellation_details": details}, "cancellation_requested")


def _terms(account: Account, params: Params) -> Terms:
    customer = living_customer(account, params.required("customer"), "customer")
    items = read_items(account, params.many("items", most=MAX_ITEMS) or [])
    check_prices(account, [price for price, _, _ in items], customer["id"])
    terms = Terms(
        customer=customer["id"],
        items=items,
        metadata=params.metadata(),
        description=params.text("description", longest=500),
        trial_end=read_trial_end(account, params),
        cancel_at_period_end=params.flag("cancel_at_period_end") or False,
        cancel_at=params.integer("cancel_at", least=account.now() + 1),
    )
    if named := params.text("default_payment_method"):
        return replace(terms, card=attach_named(account, customer, named, "default_payment_method")["id"])
    return terms


def _changed_items(account: Account, given: list[Params], subscription: Resource) -> list[Resource]:
    """The items with the given ones changed, added or removed."""
    items = {item["id"]: item for item in subscription["items"]["data"]}
    for change_of in given:
        identifier, deleted = change_of.text("id"), change_of.flag("deleted")
        if identifier is None:
            [(price, quantity, metadata)] = read_items(account, [change_of])
            added = new_item(account, subscription["id"], price, quantity, metadata, period_of(subscription))
            items[added["id"]] = added
            continue
        if identifier not in items:
            raise ResourceMissingError("subscription item", identifier, param=change_of.name("id"))
        if deleted:
            del items[identifier]
            continue
        item = items[identifier]
        if change_of.has("price") or change_of.has("price_data"):
            price = read_price(account, change_of)
            item = {**item, "price": price, "plan": prices.plan_of(price)}
        quantity = read_quantity(change_of) if change_of.has("quantity") else item["quantity"]
        items[identifier] = {**item, "quantity": quantity, "metadata": change_of.metadata(item["metadata"])}
    kept = list(items.values())
    check_prices(account, [item["price"] for item in kept], subscription["customer"])
    if len(kept) > MAX_ITEMS:
        raise InvalidRequestError(f"A subscription has at most {MAX_ITEMS} items.", param="items")
    return kept


def _ending(account: Account, params: Params, subscription: Resource) -> Resource:
    """What changes when the subscription is told to end later, or no longer to."""
    changes: Resource = {"cancellation_details": _cancellation_details(params, subscription)}
    at_period_end, moment = params.flag("cancel_at_period_end"), params.integer("cancel_at", least=account.now() + 1)
    if at_period_end and moment:
        raise InvalidRequestError(
            "You can use only one of cancel_at and cancel_at_period_end.",
            code="parameters_exclusive",
            param="cancel_at",
        )
    if at_period_end is None and not params.has("cancel_at"):
        return changes
    until = period_of(subscription)[1] if at_period_end else moment
    details = changes["cancellation_details"]
    return {
        "cancel_at": until,
        "cancel_at_period_end": bool(at_period_end),
        "canceled_at": (subscription["canceled_at"] or account.now()) if until else None,
        "cancellation_details": {**details, "reason": "cancellation_requested" if until else None},
    }


def _cancellation_details(params: Params, subscription: Resource) -> dict[str, Any]:
    details = dict(subscription["cancellation_details"])
    if given := params.nested("cancellation_details"):
        details |= {"comment": given.text("comment"), "feedback": given.choice("feedback", *_FEEDBACK)}
    return details


def _refuse_if_ended(params: Params, subscription: Resource) -> None:
    harmless = {"metadata", "cancellation_details"}
    if subscription["status"] in RUNNING or not params.given() - harmless:
        return
    message = f"A subscription that is {subscription['status']} can only update its {' and '.join(sorted(harmless))}."
    code = "invalid_canceled_subscription_fields" if subscription["status"] in ENDED else None
    raise InvalidRequestError(message, code=code)


ENDPOINTS = [
    ("GET", "/v1/subscription_items", list_items),
    ("POST", "/v1/subscriptions", create),
    ("GET", "/v1/subscriptions", list_subscriptions),
    ("GET", "/v1/subscriptions/{id}", retrieve),
    ("POST", "/v1/subscriptions/{id}", update),
    ("DELETE", "/v1/subscriptions/{id}", cancel),
]
