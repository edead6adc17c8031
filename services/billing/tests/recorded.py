"""Payloads that others recorded from Stripe, in the API versions of many years, and format converters."""

import json
import os
from copy import deepcopy
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("PAYBILL_TEST_STRIPE_FIXTURES", Path(__file__).parents[4] / "shared/fixtures/stripe"))

needed = pytest.mark.skipif(
    not FOLDER.exists(), reason="no recorded payloads; name their folder in PAYBILL_TEST_STRIPE_FIXTURES"
)


def payloads():
    """Returns the content of every file, by name."""
    return {str(path.relative_to(FOLDER)): path.read_bytes() for path in sorted(FOLDER.rglob("*.json"))}


def events():
    """Returns the events, by name."""
    return {name: body for name, body in payloads().items() if json.loads(body).get("object") == "event"}


def objects():
    """Returns objects by name: those of events, single recordings, and Stripe's example of each kind."""
    found = {}
    for name, body in payloads().items():
        content = json.loads(body)
        if name.startswith("stripe-openapi/"):
            found |= {f"{name}#{kind}": item for kind, item in content["resources"].items()}
        elif content.get("object") == "event":
            found[name] = content["data"]["object"]
        elif "object" in content:
            found[name] = content
    return {name: item for name, item in found.items() if isinstance(item, dict)}


def of_kind(kind):
    """Returns the objects of one kind, by name."""
    return {name: item for name, item in objects().items() if item.get("object") == kind}


def current(subscription):
    """Returns a subscription in the format of 2025-03-31: periods and prices belong to the items."""
    shape = deepcopy(subscription)
    start, end = shape.pop("current_period_start", None), shape.pop("current_period_end", None)
    plan, quantity = shape.pop("plan", None), shape.pop("quantity", None)
    if not shape.setdefault("items", {}).get("data"):
        shape["items"]["data"] = [{"plan": plan, "quantity": quantity}]
    for item in shape["items"]["data"]:
        item.setdefault("current_period_start", start)
        item.setdefault("current_period_end", end)
        old = item.pop("plan", None)
        item.setdefault("price", old and _price(old))
    return shape


def of_2020(subscription):
    """Returns it in the format of 2020: the period, plan and quantity belong to the subscription."""
    shape = current(subscription)
    first = shape["items"]["data"][0]
    shape["current_period_start"], shape["current_period_end"] = (
        first["current_period_start"],
        first["current_period_end"],
    )
    for item in shape["items"]["data"]:
        del item["current_period_start"], item["current_period_end"]
        item["plan"] = _plan(item["price"])
    shape["plan"], shape["quantity"] = first["plan"], first.get("quantity")
    return shape


def of_2017(subscription):
    """Returns it in the format of 2017: plans instead of prices, and an empty list of items."""
    shape = of_2020(subscription)
    shape["items"] = {"object": "list", "data": []}
    if isinstance(shape.get("latest_invoice"), dict):
        shape["latest_invoice"] = {**shape["latest_invoice"], "paid": shape["latest_invoice"].get("status") == "paid"}
    return shape


def _price(plan):
    keys = {"interval", "interval_count", "usage_type", "amount"}
    recurring = {key: plan[key] for key in ("interval", "interval_count", "usage_type") if key in plan}
    rest = {key: value for key, value in plan.items() if key not in keys}
    return {**rest, "object": "price", "unit_amount": plan.get("amount"), "recurring": recurring}


def _plan(price):
    rest = {key: value for key, value in price.items() if key not in {"recurring", "unit_amount"}}
    return {**rest, "object": "plan", "amount": price.get("unit_amount"), **(price.get("recurring") or {})}
