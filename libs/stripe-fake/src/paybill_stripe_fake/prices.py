"""Prices: amount and interval of a product; immutable except for labels."""

import re
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal

from paybill_stripe_fake import events, products
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.billing_cycle import INTERVALS, LONGEST
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.store import Resource

MAX_AMOUNT = 99_999_999


def create(account: Account, params: Params) -> Resource:
    """Creates a price per unit for a product, which may be created by the same request."""
    price = _new(account, params)
    if (active := params.flag("active")) is not None:
        price["active"] = active
    lookup_key = params.text("lookup_key", longest=200)
    _claim_lookup_key(account, params, lookup_key)
    price |= {
        "lookup_key": lookup_key,
        "nickname": params.text("nickname"),
        "metadata": params.metadata(),
        "product": _product(account, params),
    }
    return events.create(account, price)


def inline(account: Account, params: Params) -> Resource:
    """Returns a price from `price_data` of another request; it is stored, but inactive."""
    price = _new(account, params)
    return events.create(account, price | {"active": False, "product": _product(account, params)})


def retrieve(account: Account, _params: Params, price_id: str) -> Resource:
    """Returns one price."""
    return account.get("price", price_id)


def list_prices(account: Account, params: Params) -> Resource:
    """Lists prices, newest first."""
    active, created = params.flag("active"), params.within("created")
    exact = {key: params.text(key) for key in ("product", "currency", "type")}
    lookup_keys = params.texts("lookup_keys", most=10)
    recurring = params.nested("recurring")
    interval = recurring and recurring.choice("interval", *INTERVALS)

    def matches(price: Resource) -> bool:
        return (
            active in {None, price["active"]}
            and created(price["created"])
            and all(value in {None, price[key]} for key, value in exact.items())
            and (lookup_keys is None or price["lookup_key"] in lookup_keys)
            and (interval is None or (price["recurring"] or {}).get("interval") == interval)
        )

    return page(account, params, "price", matches, "/v1/prices")


def update(account: Account, params: Params, price_id: str) -> Resource:
    """Changes labels, or whether the price is active."""
    price = account.get("price", price_id)
    changes: Resource = {}
    if (active := params.flag("active")) is not None:
        changes["active"] = active
    if params.has("nickname"):
        changes["nickname"] = params.text("nickname")
    if params.has("lookup_key"):
        changes["lookup_key"] = params.text("lookup_key", longest=200)
        if changes["lookup_key"] != price["lookup_key"]:
            _claim_lookup_key(account, params, changes["lookup_key"])
    if params.has("metadata"):
        changes["metadata"] = params.metadata(price["metadata"])
    return events.change(account, price, changes)


def amount(price: Resource, quantity: int | Decimal) -> int:
    """Returns the amount for a quantity, in minor units; halves are rounded up."""
    if transform := price["transform_quantity"]:
        rounding = ROUND_CEILING if transform["round"] == "up" else ROUND_FLOOR
        quantity = (Decimal(quantity) / transform["divide_by"]).quantize(Decimal(1), rounding=rounding)
    exact = Decimal(price["unit_amount_decimal"]) * quantity
    return int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def is_metered(price: Resource) -> bool:
    """Returns whether the price is charged by metered usage, after the period."""
    return bool(price["recurring"] and price["recurring"]["usage_type"] == "metered")


def plan_of(price: Resource) -> Resource:
    """Returns the price in the older `plan` shape that subscription items still carry."""
    recurring = price["recurring"]
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": recurring["interval"],
        "interval_count": recurring["interval_count"],
        "livemode": False,
        "metadata": price["metadata"],
        "meter": recurring["meter"],
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": None,
        "transform_usage": None,
        "trial_period_days": None,
        "usage_type": recurring["usage_type"],
    }


def _new(account: Account, params: Params) -> Resource:
    currency = params.required("currency").lower()
    if not re.fullmatch(r"[a-z]{3}", currency):
        raise InvalidRequestError(f"Invalid currency: {currency[:100]}", param=params.name("currency"))
    params.choice("billing_scheme", "per_unit")
    unit, exact = params.integer("unit_amount", most=MAX_AMOUNT), params.decimal("unit_amount_decimal")
    if (unit is None) == (exact is None):
        raise InvalidRequestError(
            f"Exactly one of {params.name('unit_amount')} and {params.name('unit_amount_decimal')} is required.",
            param=params.name("unit_amount"),
        )
    exact = Decimal(unit or 0) if exact is None else exact
    if exact > MAX_AMOUNT:
        raise InvalidRequestError(f"Invalid decimal: at most {MAX_AMOUNT}", param=params.name("unit_amount_decimal"))
    recurring = _recurring(account, params)
    return {
        "id": new_id("price"),
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": account.now(),
        "currency": currency,
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": None,
        "metadata": {},
        "nickname": None,
        "product": None,
        "recurring": recurring,
        "tax_behavior": params.choice("tax_behavior", "unspecified", "inclusive", "exclusive") or "unspecified",
        "tiers_mode": None,
        "transform_quantity": _transform(params),
        "type": "recurring" if recurring else "one_time",
        "unit_amount": int(exact) if exact == int(exact) else None,
        "unit_amount_decimal": f"{exact:f}",
    }


def _transform(params: Params) -> Resource | None:
    """Returns the number of units that the price is for."""
    transform = params.nested("transform_quantity")
    if transform is None:
        return None
    for key in ("divide_by", "round"):
        transform.required(key)
    return {"divide_by": transform.integer("divide_by", least=1), "round": transform.choice("round", "down", "up")}


def _recurring(account: Account, params: Params) -> Resource | None:
    recurring = params.nested("recurring")
    if recurring is None:
        return None
    recurring.required("interval")
    interval = recurring.choice("interval", *INTERVALS) or ""
    usage_type, meter = recurring.choice("usage_type", "licensed", "metered") or "licensed", recurring.text("meter")
    if (usage_type == "metered") != (meter is not None):
        raise InvalidRequestError(
            "usage_type=metered requires a meter, and the other way round.", param=recurring.name("meter")
        )
    if meter is not None:
        account.get("billing.meter", meter, recurring.name("meter"))
    return {
        "interval": interval,
        "interval_count": recurring.integer("interval_count", least=1, most=LONGEST[interval]) or 1,
        "meter": meter,
        "trial_period_days": None,
        "usage_type": usage_type,
    }


def _product(account: Account, params: Params) -> str:
    data = params.nested("product_data")
    if data is None:
        product = account.get("product", params.required("product"), params.name("product"))
    else:
        product = products.new(account, data.required("name", longest=250), identifier=data.text("id", longest=200))
        events.create(account, product | {"metadata": data.metadata()})
    return str(product["id"])


def _claim_lookup_key(account: Account, params: Params, lookup_key: str | None) -> None:
    """Assigns a lookup key to a price; taking it from another price needs `transfer_lookup_key`."""
    transfer = params.flag("transfer_lookup_key")
    holders = [price for price in account.store.oldest_first("price") if price["lookup_key"] == lookup_key]
    if lookup_key is None or not holders:
        return
    if not transfer:
        raise InvalidRequestError(
            f"A price ({holders[0]['id']}) already uses that lookup key.",
            code="resource_already_exists",
            param="lookup_key",
        )
    events.change(account, holders[0], {"lookup_key": None})


ENDPOINTS = [
    ("POST", "/v1/prices", create),
    ("GET", "/v1/prices", list_prices),
    ("GET", "/v1/prices/{id}", retrieve),
    ("POST", "/v1/prices/{id}", update),
]
