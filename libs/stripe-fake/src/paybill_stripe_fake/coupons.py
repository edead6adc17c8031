"""Coupons, promotion codes, and the discounts that customers get with them."""

from decimal import ROUND_HALF_UP, Decimal

from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.billing_cycle import period_end
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.store import Resource

_LONGEST_MONTHS = 36
_PERCENT = Decimal(100)


def create_coupon(account: Account, params: Params) -> Resource:
    """Creates a coupon with a percentage or an amount off, for one invoice, some months or ever."""
    identifier = params.text("id", longest=100) or new_id("co")[3:11]
    percent, amount = params.decimal("percent_off"), params.integer("amount_off", least=1)
    if (percent is None) == (amount is None):
        raise InvalidRequestError("You must pass one of percent_off and amount_off.", param="percent_off")
    if percent is not None and not 0 < percent <= _PERCENT:
        raise InvalidRequestError("Invalid percent_off: must be above 0 and at most 100.", param="percent_off")
    duration = params.choice("duration", "forever", "once", "repeating") or "once"
    months = params.integer("duration_in_months", least=1, most=_LONGEST_MONTHS)
    if (duration == "repeating") != (months is not None):
        raise InvalidRequestError(
            "duration=repeating requires duration_in_months, and the other way round.", param="duration_in_months"
        )
    if account.store.find("coupon", identifier) is not None:
        raise InvalidRequestError("Coupon already exists.", code="resource_already_exists", param="id")
    return account.put(
        {
            "id": identifier,
            "object": "coupon",
            "amount_off": amount,
            "created": account.now(),
            "currency": params.required("currency").lower() if amount is not None else None,
            "duration": duration,
            "duration_in_months": months,
            "livemode": False,
            "max_redemptions": params.integer("max_redemptions", least=1),
            "metadata": params.metadata(),
            "name": params.text("name", longest=40),
            "percent_off": None if percent is None else float(percent),
            "redeem_by": params.integer("redeem_by", least=account.now() + 1),
            "times_redeemed": 0,
            "valid": True,
        }
    )


def retrieve_coupon(account: Account, _params: Params, identifier: str) -> Resource:
    """Returns one coupon."""
    return _current_coupon(account, account.get("coupon", identifier))


def list_coupons(account: Account, params: Params) -> Resource:
    """Lists coupons, newest first."""
    created = params.within("created")
    return page(account, params, "coupon", lambda found: created(found["created"]), "/v1/coupons")


def create_promotion_code(account: Account, params: Params) -> Resource:
    """Creates a code that customers enter for a coupon."""
    promotion = params.nested("promotion") or Params({}, "promotion")
    promotion.choice("type", "coupon")
    coupon = account.get("coupon", promotion.required("coupon"), promotion.name("coupon"))
    code = params.text("code", longest=100) or new_id("code")[5:13].upper()
    if any(_is_active(account, each) and each["code"] == code for each in account.store.oldest_first("promotion_code")):
        raise InvalidRequestError(f"An active promotion code with `code: {code}` already exists.", param="code")
    active = params.flag("active")
    return account.put(
        {
            "id": new_id("promo"),
            "object": "promotion_code",
            "active": active is not False,
            "code": code,
            "created": account.now(),
            "customer": None,
            "customer_account": None,
            "expires_at": params.integer("expires_at", least=account.now() + 1),
            "livemode": False,
            "max_redemptions": params.integer("max_redemptions", least=1),
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


def retrieve_promotion_code(account: Account, _params: Params, identifier: str) -> Resource:
    """Returns one promotion code."""
    return _current_code(account, account.get("promotion_code", identifier))


def update_promotion_code(account: Account, params: Params, identifier: str) -> Resource:
    """Switches a promotion code on or off."""
    found = account.get("promotion_code", identifier)
    active = params.flag("active")
    changes: Resource = {"active": found["active"] if active is None else active}
    if params.has("metadata"):
        changes["metadata"] = params.metadata(found["metadata"])
    return _current_code(account, account.put({**found, **changes}))


def list_promotion_codes(account: Account, params: Params) -> Resource:
    """Lists promotion codes, newest first."""
    code, active, coupon = params.text("code"), params.flag("active"), params.text("coupon")

    def matches(found: Resource) -> bool:
        return (
            code in {None, found["code"]}
            and active in {None, _is_active(account, found)}
            and coupon in {None, found["promotion"]["coupon"]}
        )

    return page(account, params, "promotion_code", matches, "/v1/promotion_codes")


def find(account: Account, params: Params) -> tuple[Resource, Resource | None]:
    """Returns the coupon that a parameter names, and its promotion code; refuses one that is no longer valid."""
    identifier = params.text("promotion_code")
    if identifier is None:
        coupon = account.get("coupon", params.required("coupon"), params.name("coupon"))
        return _valid(account, coupon, None, params.name("coupon")), None
    code = account.get("promotion_code", identifier, params.name("promotion_code"))
    coupon = account.get("coupon", code["promotion"]["coupon"])
    return _valid(account, coupon, code, params.name("promotion_code")), code


def entered(account: Account, code: str) -> tuple[Resource, Resource]:
    """Returns the coupon and the promotion code that a customer entered."""
    for each in account.store.oldest_first("promotion_code"):
        if each["code"] == code and _is_active(account, each):
            return _valid(account, account.get("coupon", each["promotion"]["coupon"]), each, "promotion_code"), each
    raise InvalidRequestError("This code is invalid.", param="promotion_code")


def redeem(account: Account, params: Params, customer: str | None) -> str:
    """Returns the id of a discount: an existing one, or a new one of a coupon or promotion code."""
    existing = params.text("discount")
    if existing is not None:
        return str(account.get("discount", existing, params.name("discount"))["id"])
    coupon, code = find(account, params)
    return granted(account, coupon, code, customer)


def granted(
    account: Account, coupon: Resource, code: Resource | None, customer: str | None, session: str | None = None
) -> str:
    """Returns the id of a new discount, which counts as a redemption. session: the checkout that it comes from."""
    months, now = coupon["duration_in_months"], account.now()
    account.put({**coupon, "times_redeemed": coupon["times_redeemed"] + 1})
    if code is not None:
        account.put({**code, "times_redeemed": code["times_redeemed"] + 1})
    discount = {
        "id": new_id("di"),
        "object": "discount",
        "checkout_session": session,
        "customer": customer,
        "customer_account": None,
        "end": period_end(now, now, "month", months) if months else None,
        "invoice": None,
        "invoice_item": None,
        "promotion_code": code["id"] if code else None,
        "source": {"coupon": coupon["id"], "type": "coupon"},
        "start": now,
        "subscription": None,
        "subscription_item": None,
    }
    return str(account.put(discount)["id"])


def of_discount(account: Account, discount: str) -> Resource:
    """Returns the coupon of a discount."""
    return account.get("coupon", account.get("discount", discount)["source"]["coupon"])


def is_over(account: Account, discount: str, invoice: str) -> bool:
    """Returns whether a discount no longer applies to this invoice: it has ended, or was for one invoice."""
    end = account.get("discount", discount)["end"]
    used = account.store.find("discount_use", discount)
    return (end is not None and end <= account.now()) or (used is not None and used["invoice"] != invoice)


def note_use(account: Account, discount: str, invoice: str, amount: int) -> None:
    """Remembers the invoice that uses up a discount for one invoice; an invoice of nothing does not."""
    if amount > 0 and of_discount(account, discount)["duration"] == "once":
        account.store.put("discount_use", discount, {"invoice": invoice})


def off(coupon: Resource, amount: int) -> int:
    """Returns the discount of an amount."""
    if coupon["percent_off"] is not None:
        return share(amount, Decimal(str(coupon["percent_off"])))
    return min(amount, int(coupon["amount_off"]))


def check_currency(coupon: Resource, currency: str, param: str) -> None:
    """Refuses an amount off in another currency."""
    if coupon["amount_off"] is not None and coupon["currency"] != currency:
        raise InvalidRequestError(
            f"The coupon is in {coupon['currency']}, and the prices are in {currency}.", param=param
        )


def share(amount: int, percent: Decimal) -> int:
    """Returns a percentage of an amount; halves are rounded up."""
    return int((amount * percent / _PERCENT).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def _valid(account: Account, coupon: Resource, code: Resource | None, param: str) -> Resource:
    if not _current_coupon(account, coupon)["valid"]:
        raise InvalidRequestError(f"Coupon {coupon['id']} is expired or used up.", code="coupon_expired", param=param)
    if code is not None and not _is_active(account, code):
        raise InvalidRequestError(f"Promotion code {code['id']} is not active.", param=param)
    return coupon


def _current_coupon(account: Account, coupon: Resource) -> Resource:
    by, most = coupon["redeem_by"], coupon["max_redemptions"]
    valid = (by is None or account.now() < by) and (most is None or coupon["times_redeemed"] < most)
    return {**coupon, "valid": valid}


def _current_code(account: Account, code: Resource) -> Resource:
    return {**code, "active": _is_active(account, code)}


def _is_active(account: Account, code: Resource) -> bool:
    by, most = code["expires_at"], code["max_redemptions"]
    return (
        bool(code["active"])
        and (by is None or account.now() < by)
        and (most is None or code["times_redeemed"] < most)
        and bool(_current_coupon(account, account.get("coupon", code["promotion"]["coupon"]))["valid"])
    )


ENDPOINTS = [
    ("POST", "/v1/coupons", create_coupon),
    ("GET", "/v1/coupons", list_coupons),
    ("GET", "/v1/coupons/{id}", retrieve_coupon),
    ("POST", "/v1/promotion_codes", create_promotion_code),
    ("GET", "/v1/promotion_codes", list_promotion_codes),
    ("GET", "/v1/promotion_codes/{id}", retrieve_promotion_code),
    ("POST", "/v1/promotion_codes/{id}", update_promotion_code),
]
