"""Subscriptions: a customer's recurring prices, from the first invoice to the end."""

from dataclasses import replace

from paybill_stripe_fake import collection, events, invoices
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.adjustments import read_discounts, read_tax_rates
from paybill_stripe_fake.errors import CardDeclinedError, InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.payment_methods import attach_named, card_of
from paybill_stripe_fake.prorations import BEHAVIOURS
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import ENDED, existing_customer, period_of
from paybill_stripe_fake.terms import (
    MAX_ITEMS,
    Terms,
    check_prices,
    new_subscription,
    read_items,
    read_trial_end,
    read_trial_settings,
)

_STATUSES = ("active", "canceled", "incomplete", "incomplete_expired", "past_due", "paused", "trialing", "unpaid")
_TRIAL_WARNING_S = 3 * 86_400


def start(account: Account, terms: Terms) -> tuple[Resource, Resource]:
    """Starts a subscription and drafts its first invoice; `incomplete` until that is paid, unless on trial."""
    subscription = new_subscription(account, terms)
    customer = account.get("customer", terms.customer)
    if customer["currency"] is None:
        events.change(account, customer, {"currency": subscription["currency"]})
    events.create(account, subscription, "customer.subscription.created")
    now = subscription["created"]
    invoice = invoices.draft(account, subscription, "subscription_create", past=(now, now), advance=True, used=False)
    invoice = collection.finalize(account, invoice)
    warn_of_trial_end(account, subscription)
    return account.get("subscription", subscription["id"]), invoice


def trial_warning_at(account: Account, subscription: Resource) -> int | None:
    """Returns the time of the warning before the trial ends, or None if it was sent or there is no trial."""
    warned = account.store.find("trial_warning", subscription["id"])
    if subscription["status"] != "trialing" or (warned and warned["trial_end"] == subscription["trial_end"]):
        return None
    return max(int(subscription["created"]), int(subscription["trial_end"]) - _TRIAL_WARNING_S)


def warn_of_trial_end(account: Account, subscription: Resource) -> None:
    """Emits once, three days before, that the trial will end."""
    due = trial_warning_at(account, subscription)
    if due is not None and due <= account.now():
        account.store.put("trial_warning", subscription["id"], {"trial_end": subscription["trial_end"]})
        events.emit(account, "customer.subscription.trial_will_end", subscription)


def create(account: Account, params: Params) -> Resource:
    """Subscribes a customer and charges the default card, according to `payment_behavior`."""
    behaviour = params.choice("payment_behavior", "allow_incomplete", "default_incomplete", "error_if_incomplete")
    terms = read_terms(account, params, params.required("customer"))
    params.choice("collection_method", "charge_automatically")
    params.choice("proration_behavior", *BEHAVIOURS)
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
    """Returns one subscription, ended ones too."""
    return account.get("subscription", subscription_id)


def list_subscriptions(account: Account, params: Params) -> Resource:
    """Lists subscriptions, newest first; ended ones only if `status` requests them."""
    customer, price, status = (
        params.text("customer"),
        params.text("price"),
        params.choice("status", *_STATUSES, "all", "ended"),
    )
    created = params.within("created")
    starts, ends = params.within("current_period_start"), params.within("current_period_end")

    def matches(subscription: Resource) -> bool:
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

    return page(account, params, "subscription", matches, "/v1/subscriptions")


def read_terms(account: Account, params: Params, customer_id: str) -> Terms:
    """Returns the terms of a new subscription."""
    customer = existing_customer(account, customer_id, "customer")
    ordered = params.many("items", most=MAX_ITEMS) or []
    items = read_items(account, ordered)
    check_prices(account, [price for price, _, _ in items], customer["id"])
    terms = Terms(
        customer=customer["id"],
        items=items,
        metadata=params.metadata(),
        description=params.text("description", longest=500),
        trial_end=read_trial_end(account, params),
        cancel_at_period_end=params.flag("cancel_at_period_end") or False,
        cancel_at=params.integer("cancel_at", least=account.now() + 1),
        without_card=read_trial_settings(params)["end_behavior"]["missing_payment_method"],
        item_adjustments=[
            {
                "discounts": read_discounts(account, item, customer["id"]) or [],
                "tax_rates": read_tax_rates(account, item) or [],
            }
            for item in ordered
        ],
        discounts=read_discounts(account, params, customer["id"]) or [],
        tax_rates=read_tax_rates(account, params, "default_tax_rates") or [],
    )
    if named := params.text("default_payment_method"):
        return replace(terms, card=attach_named(account, customer, named, "default_payment_method")["id"])
    return terms


ENDPOINTS = [
    ("POST", "/v1/subscriptions", create),
    ("GET", "/v1/subscriptions", list_subscriptions),
    ("GET", "/v1/subscriptions/{id}", retrieve),
]
