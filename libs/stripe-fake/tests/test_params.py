"""Requests: handlers read only parameters that the SDK's own parameter types contain."""

import re
import sys

import pytest
from paybill_stripe_fake import (
    checkout,
    customers,
    invoice_api,
    invoice_items,
    meters,
    pauses,
    payment_methods,
    payments,
    portal,
    previews,
    prices,
    products,
    refunds,
    schedules,
    subscription_changes,
    subscription_items,
    subscriptions,
)
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.forms import Params, from_json
from paybill_stripe_fake.store import Store
from stripe import params as sdk

OLDER = {"iterations", "payment_method_types"}
"""Parameters of older API versions: phases had iterations before a duration, payments a list of types."""


@pytest.fixture
def account():
    account = Account(Store())
    with account.work():
        yield account


@pytest.fixture
def ids(account):
    """Returns the id of one object of each kind."""
    price = {"currency": "usd", "unit_amount": 100, "recurring": {"interval": "month"}, "product_data": {"name": "P"}}
    priced = prices.create(account, Params(from_json(price)))
    card = {"payment_method": "pm_card_visa", "invoice_settings": {"default_payment_method": "pm_card_visa"}}
    customer = customers.create(account, Params(from_json(card)))
    items = {"customer": customer["id"], "items": [{"price": priced["id"]}]}
    subscription = subscriptions.create(account, Params(from_json(items)))
    scheduled = subscriptions.create(account, Params(from_json(items)))
    schedule = schedules.create(account, Params(from_json({"from_subscription": scheduled["id"]})))
    paused = subscriptions.create(account, Params(from_json(items)))
    pauses.pause(account, Params({}), paused["id"])
    return {
        "customer": customer["id"],
        "price": priced["id"],
        "product": priced["product"],
        "subscription": subscription["id"],
        "item": subscription["items"]["data"][0]["id"],
        "invoice": subscription["latest_invoice"],
        "charge": account.store.oldest_first("charge")[0]["id"],
        "schedule": schedule["id"],
        "paused": paused["id"],
        "start": schedule["phases"][0]["start_date"],
    }


PRICE = {"price": "{price}"}
CASES = [
    (checkout.create, sdk.checkout.SessionCreateParams, {"mode": "subscription", "line_items": [PRICE]}, ()),
    (customers.create, sdk.CustomerCreateParams, {}, ()),
    (customers.update, sdk.CustomerUpdateParams, {}, ("customer",)),
    (invoice_api.create, sdk.InvoiceCreateParams, {"customer": "{customer}"}, ()),
    (invoice_api.update, sdk.InvoiceUpdateParams, {}, ("invoice",)),
    (invoice_items.create, sdk.InvoiceItemCreateParams, {"customer": "{customer}", "pricing": PRICE}, ()),
    (meters.create, sdk.billing.MeterCreateParams, {"event_name": "e", "display_name": "d"}, ()),
    (pauses.pause, sdk.SubscriptionPauseParams, {}, ("subscription",)),
    (pauses.resume, sdk.SubscriptionResumeParams, {}, ("paused",)),
    (payment_methods.create, sdk.PaymentMethodCreateParams, {"type": "card", "card": {"token": "tok_visa"}}, ()),
    (payments.create, sdk.PaymentIntentCreateParams, {"amount": 1, "currency": "usd"}, ()),
    (portal.create_configuration, sdk.billing_portal.ConfigurationCreateParams, {}, ()),
    (portal.create_session, sdk.billing_portal.SessionCreateParams, {"customer": "{customer}"}, ()),
    (previews.create_preview, sdk.InvoiceCreatePreviewParams, {"subscription": "{subscription}"}, ()),
    (prices.create, sdk.PriceCreateParams, {"currency": "usd", "unit_amount": 1, "product": "{product}"}, ()),
    (products.create, sdk.ProductCreateParams, {"name": "P"}, ()),
    (products.update, sdk.ProductUpdateParams, {}, ("product",)),
    (refunds.create, sdk.RefundCreateParams, {"charge": "{charge}"}, ()),
    (schedules.create, sdk.SubscriptionScheduleCreateParams, {"from_subscription": "{subscription}"}, ()),
    (
        schedules.create,
        sdk.SubscriptionScheduleCreateParams,
        {"customer": "{customer}", "phases": [{"items": [PRICE], "duration": {"interval": "month"}}]},
        (),
    ),
    (
        schedules.update,
        sdk.SubscriptionScheduleUpdateParams,
        {"phases": [{"items": [PRICE], "start_date": "{start}"}]},
        ("schedule",),
    ),
    (subscription_changes.update, sdk.SubscriptionUpdateParams, {"items": [{"id": "{item}"}]}, ("subscription",)),
    (subscription_changes.cancel, sdk.SubscriptionCancelParams, {}, ("subscription",)),
    (subscription_items.create, sdk.SubscriptionItemCreateParams, {"subscription": "{subscription}", **PRICE}, ()),
    (subscription_items.update, sdk.SubscriptionItemUpdateParams, {"quantity": 2}, ("item",)),
    (subscriptions.create, sdk.SubscriptionCreateParams, {"customer": "{customer}", "items": [PRICE]}, ()),
    (subscriptions.list_subscriptions, sdk.SubscriptionListParams, {}, ()),
]


@pytest.mark.parametrize(("handler", "kind", "passed", "arguments"), CASES)
def test_only_parameters_known_to_the_sdk_are_read(account, ids, handler, kind, passed, arguments):
    extra = {"default_aggregation": {"formula": "sum"}} if handler is meters.create else {}
    extra |= {"success_url": "https://example.com/done"} if handler is checkout.create else {}
    params = Params(from_json(filled({**passed, **extra}, ids)))
    handler(account, params, *(ids[name] for name in arguments))

    assert unknown(params, kind) == []


def filled(value, ids):
    match value:
        case dict():
            return {key: filled(inner, ids) for key, inner in value.items()}
        case list():
            return [filled(inner, ids) for inner in value]
        case str():
            return value.format(**ids) if value.startswith("{") else value
        case _:
            return value


def unknown(params, kind):
    """Returns the read names that the type lacks, nested parameters included."""
    found = sorted(params._read - kind.__annotations__.keys() - OLDER)
    for child in params._children:
        inner = nested(kind, last(child))
        if inner is not None:
            elements = child._children if all(key.isdigit() for key in child._read) else [child]
            found += [f"{last(child)}[{name}]" for element in elements for name in unknown(element, inner)]
    return found


def last(params):
    return params._path.split("[")[-1].rstrip("]")


def nested(kind, key):
    """Returns the type of a nested parameter; the SDK defines it in the same module."""
    beside = vars(sys.modules[kind.__module__])
    names = re.findall(r"\w*Params\w+", str(kind.__annotations__.get(key)))
    return next((beside[name] for name in names if name in beside), None)
