"""Coupons, promotion codes and tax rates, and the discounts and taxes of invoice lines."""

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal

from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.store import Resource

_MAX = 20
_PERCENT = Decimal(100)


def create_coupon(account: Account, params: Params) -> Resource:
    """Creates a coupon that lasts for ever, with a percentage or an amount off."""
    identifier = params.text("id", longest=100) or new_id("co")[3:11]
    percent, amount = params.decimal("percent_off"), params.integer("amount_off", least=1)
    if (percent is None) == (amount is None):
        raise InvalidRequestError("You must pass one of percent_off and amount_off.", param="percent_off")
    params.choice("duration", "forever")
    return account.put(
        {
            "id": identifier,
            "object": "coupon",
            "amount_off": amount,
            "created": account.now(),
            "currency": params.required("currency").lower() if amount is not None else None,
            "duration": "forever",
            "duration_in_months": None,
            "livemode": False,
            "max_redemptions": None,
            "metadata": params.metadata(),
            "name": params.text("name", longest=40),
            "percent_off": None if percent is None else float(percent),
            "redeem_by": None,
            "times_redeemed": 0,
            "valid": True,
        }
    )


def create_promotion_code(account: Account, params: Params) -> Resource:
    """Creates a code that customers enter for a coupon."""
    promotion = params.nested("promotion") or Params({}, "promotion")
    promotion.choice("type", "coupon")
    coupon = account.get("coupon", promotion.required("coupon"), promotion.name("coupon"))
    return account.put(
        {
            "id": new_id("promo"),
            "object": "promotion_code",
            "active": True,
            "code": params.text("code", longest=100) or new_id("code")[5:13].upper(),
            "created": account.now(),
            "customer": None,
            "customer_account": None,
            "expires_at": None,
            "livemode": False,
            "max_redemptions": None,
            "metadata": params.metadata(),
            "promotion": {"coupon": coupon["id"], "type": "coupon"},
            "restrictions": {
                "first_time_transaction": False,
                "minimum_amount": None,
                "minimum_amount_currency": None,
            },
            "times_redeemed": 0,
        }
    )


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


def retrieve_coupon(account: Account, _params: Params, identifier: str) -> Resource:
    """Returns one coupon."""
    return account.get("coupon", identifier)


def retrieve_promotion_code(account: Account, _params: Params, identifier: str) -> Resource:
    """Returns one promotion code."""
    return account.get("promotion_code", identifier)


def retrieve_tax_rate(account: Account, _params: Params, identifier: str) -> Resource:
    """Returns one tax rate."""
    return account.get("tax_rate", identifier)


def list_promotion_codes(account: Account, params: Params) -> Resource:
    """Lists promotion codes, newest first."""
    code, active = params.text("code"), params.flag("active")

    def matches(found: Resource) -> bool:
        return code in {None, found["code"]} and active in {None, found["active"]}

    return page(account, params, "promotion_code", matches, "/v1/promotion_codes")


def read_discounts(account: Account, params: Params, customer: str | None, key: str = "discounts") -> list[str] | None:
    """Returns the ids of the discounts in a parameter, new ones for coupons and codes; None when it is absent."""
    if not params.has(key):
        return None
    return [_discount(account, each, customer) for each in params.many(key, most=_MAX) or []]


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


def adjusted(account: Account, subscription: Resource | None, lines: list[Resource]) -> list[Resource]:
    """Returns the lines of a subscription with their discounts and taxes."""
    if subscription is None:
        return lines
    items = {item["id"]: item for item in subscription["items"]["data"]}
    left = {id_: _coupon(account, id_)["amount_off"] or 0 for id_ in subscription["discounts"]}
    return [_adjusted(account, subscription, items.get(_item_of(line)), line, left) for line in lines]


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
    account: Account, subscription: Resource, item: Resource | None, line: Resource, left: dict[str, int]
) -> Resource:
    if item is None:
        return line
    net, off = line["amount"], []
    for discount in [*item["discounts"], *subscription["discounts"]]:
        coupon = _coupon(account, discount)
        if coupon["percent_off"] is not None:
            amount = _share(net, Decimal(str(coupon["percent_off"])))
        else:
            amount = max(min(net, left.get(discount, coupon["amount_off"])), 0)
            left[discount] = left.get(discount, coupon["amount_off"]) - amount
        net -= amount
        off.append({"amount": amount, "discount": discount})
    rates = item["tax_rates"] or subscription["default_tax_rates"]
    return {**line, "discount_amounts": off, "taxes": [_tax(rate, net) for rate in rates]}


def _tax(rate: Resource, net: int) -> Resource:
    percentage = Decimal(str(rate["percentage"]))
    base = net if not rate["inclusive"] else net - _share(net, percentage * _PERCENT / (_PERCENT + percentage))
    return {
        "amount": _share(net, percentage) if not rate["inclusive"] else net - base,
        "tax_behavior": "inclusive" if rate["inclusive"] else "exclusive",
        "tax_rate_details": {"tax_rate": rate["id"]},
        "taxability_reason": "standard_rated",
        "taxable_amount": base,
        "type": "tax_rate_details",
    }


def _share(amount: int, percent: Decimal) -> int:
    return int((amount * percent / _PERCENT).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def _summed(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for key, amount in pairs:
        sums[key] = sums.get(key, 0) + amount
    return sums


def _item_of(line: Resource) -> str:
    details = (line["parent"] or {}).get("subscription_item_details")
    return str(details["subscription_item"]) if details else ""


def _coupon(account: Account, discount: str) -> Resource:
    return account.get("coupon", account.get("discount", discount)["source"]["coupon"])


def _discount(account: Account, params: Params, customer: str | None) -> str:
    """Returns the id of a discount: an existing one, or a new one of a coupon or promotion code."""
    existing, code = params.text("discount"), params.text("promotion_code")
    if existing is not None:
        return str(account.get("discount", existing, params.name("discount"))["id"])
    found = account.get("promotion_code", code, params.name("promotion_code")) if code is not None else None
    coupon = found["promotion"]["coupon"] if found else params.required("coupon")
    account.get("coupon", coupon, params.name("coupon"))
    discount = {
        "id": new_id("di"),
        "object": "discount",
        "checkout_session": None,
        "customer": customer,
        "customer_account": None,
        "end": None,
        "invoice": None,
        "invoice_item": None,
        "promotion_code": code,
        "source": {"coupon": coupon, "type": "coupon"},
        "start": account.now(),
        "subscription": None,
        "subscription_item": None,
    }
    return str(account.put(discount)["id"])


ENDPOINTS = [
    ("POST", "/v1/coupons", create_coupon),
    ("GET", "/v1/coupons/{id}", retrieve_coupon),
    ("POST", "/v1/promotion_codes", create_promotion_code),
    ("GET", "/v1/promotion_codes", list_promotion_codes),
    ("GET", "/v1/promotion_codes/{id}", retrieve_promotion_code),
    ("POST", "/v1/tax_rates", create_tax_rate),
    ("GET", "/v1/tax_rates/{id}", retrieve_tax_rate),
]
