"""Tax rates, and the discounts and taxes of invoice lines."""

from collections.abc import Iterable
from decimal import Decimal

from paybill_stripe_fake import coupons
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.store import Resource

_MAX = 20
_PERCENT = Decimal(100)


def create_tax_rate(account: Account, params: Params) -> Resource:
    """Creates a tax rate."""
    percentage = params.decimal("percentage")
    if percentage is None:
        raise InvalidRequestError("Missing required param: percentage.", code="parameter_missing", param="percentage")
    return account.put(
        {
            "id": new_id("txr"),
            "object": "tax_rate",
            "active": True,
            "country": None,
            "created": account.now(),
            "description": None,
            "display_name": params.required("display_name", longest=50),
            "effective_percentage": None,
            "flat_amount": None,
            "inclusive": params.flag("inclusive") or False,
            "jurisdiction": None,
            "jurisdiction_level": None,
            "livemode": False,
            "metadata": params.metadata(),
            "percentage": float(percentage),
            "rate_type": "percentage",
            "state": None,
            "tax_type": None,
        }
    )


def retrieve_tax_rate(account: Account, _params: Params, identifier: str) -> Resource:
    """Returns one tax rate."""
    return account.get("tax_rate", identifier)


def read_discounts(account: Account, params: Params, customer: str | None, key: str = "discounts") -> list[str] | None:
    """Returns the ids of the discounts in a parameter, new ones for coupons and codes; None when it is absent."""
    if not params.has(key):
        return None
    return [coupons.redeem(account, each, customer) for each in params.many(key, most=_MAX) or []]


def read_tax_rates(account: Account, params: Params, key: str = "tax_rates") -> list[Resource] | None:
    """Returns the tax rates in a parameter; None when it is absent."""
    if not params.has(key):
        return None
    return [account.get("tax_rate", rate, params.name(key)) for rate in params.texts(key, most=_MAX) or []]


def of_phase(discounts: Iterable[str]) -> list[Resource]:
    """Returns discounts as the phase of a schedule shows them."""
    return [{"coupon": None, "discount": discount, "promotion_code": None} for discount in discounts]


def discounts_of(phase: Resource) -> list[str]:
    """Returns the ids of the discounts of a phase or of its item."""
    return [each["discount"] for each in phase["discounts"]]


def adjusted(account: Account, subscription: Resource | None, lines: list[Resource], invoice: str) -> list[Resource]:
    """Returns the lines of a subscription on this invoice with their discounts and taxes."""
    if subscription is None:
        return lines
    items = {item["id"]: item for item in subscription["items"]["data"]}
    left = {id_: coupons.of_discount(account, id_)["amount_off"] or 0 for id_ in subscription["discounts"]}
    return [_adjusted(account, subscription, items.get(_item_of(line)), line, left, invoice) for line in lines]


def amounts(lines: list[Resource]) -> Resource:
    """Returns the totals of an invoice."""
    subtotal = sum(line["amount"] for line in lines)
    discounts = _summed((d["discount"], d["amount"]) for line in lines for d in line["discount_amounts"])
    off = sum(discounts.values())
    exclusive = sum(tax["amount"] for line in lines for tax in line["taxes"] if tax["tax_behavior"] == "exclusive")
    inclusive = sum(tax["amount"] for line in lines for tax in line["taxes"] if tax["tax_behavior"] == "inclusive")
    return {
        "subtotal": subtotal,
        "subtotal_excluding_tax": subtotal - inclusive,
        "total": subtotal - off + exclusive,
        "total_discount_amounts": [{"amount": amount, "discount": id_} for id_, amount in discounts.items()],
        "total_excluding_tax": subtotal - off - inclusive,
        "total_taxes": [tax for line in lines for tax in line["taxes"]],
    }


def _adjusted(
    account: Account,
    subscription: Resource,
    item: Resource | None,
    line: Resource,
    left: dict[str, int],
    invoice: str,
) -> Resource:
    if item is None:
        return line
    net, off = line["amount"], []
    # The amount of a credit has the discounts of the charge already.
    for discount in [*item["discounts"], *subscription["discounts"]] if net > 0 else ():
        if coupons.is_over(account, discount, invoice):
            continue
        coupon = coupons.of_discount(account, discount)
        if coupon["percent_off"] is not None:
            amount = coupons.share(net, Decimal(str(coupon["percent_off"])))
        else:
            amount = max(min(net, left.get(discount, coupon["amount_off"])), 0)
            left[discount] = left.get(discount, coupon["amount_off"]) - amount
        net -= amount
        coupons.note_use(account, discount, invoice, amount)
        off.append({"amount": amount, "discount": discount})
    rates = item["tax_rates"] or subscription["default_tax_rates"]
    return {**line, "discount_amounts": off, "taxes": [_tax(rate, net) for rate in rates]}


def _tax(rate: Resource, net: int) -> Resource:
    percentage = Decimal(str(rate["percentage"]))
    base = net if not rate["inclusive"] else net - coupons.share(net, percentage * _PERCENT / (_PERCENT + percentage))
    return {
        "amount": coupons.share(net, percentage) if not rate["inclusive"] else net - base,
        "tax_behavior": "inclusive" if rate["inclusive"] else "exclusive",
        "tax_rate_details": {"tax_rate": rate["id"]},
        "taxability_reason": "standard_rated",
        "taxable_amount": base,
        "type": "tax_rate_details",
    }


def _summed(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for key, amount in pairs:
        sums[key] = sums.get(key, 0) + amount
    return sums


def _item_of(line: Resource) -> str:
    details = (line["parent"] or {}).get("subscription_item_details")
    return str(details["subscription_item"]) if details else ""


ENDPOINTS = [
    ("POST", "/v1/tax_rates", create_tax_rate),
    ("GET", "/v1/tax_rates/{id}", retrieve_tax_rate),
]
