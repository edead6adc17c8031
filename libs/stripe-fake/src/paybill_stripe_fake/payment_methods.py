"""Customers' cards, and the outcome of charging them."""

from paybill_stripe_fake import events
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import CardDeclinedError, InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.store import Resource

OUTCOMES = ("succeed", "fail")
TEST_CARDS = {
    "pm_card_visa": "succeed",
    "pm_card_mastercard": "succeed",
    "pm_card_chargeCustomerFail": "fail",
    "pm_card_threeDSecure2Required": "action",
    "pm_card_authenticationRequired": "action",
    "pm_card_createDispute": "dispute",
    "pm_card_createDisputeInquiry": "inquiry",
}
"""Stripe's names for test cards, and the outcome of charging them.

A disputed charge succeeds first; `action` fails until the customer confirms the payment, which never happens here.
"""
_DECLINED_ON_ATTACH = frozenset({"pm_card_chargeDeclined", "pm_card_visa_chargeDeclined"})
_LAST4 = {"succeed": "4242", "fail": "0341", "action": "3155", "dispute": "0259", "inquiry": "1976"}
_NO_ADDRESS = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))


def attach(account: Account, customer: Resource, outcome: str) -> Resource:
    """Adds a new card with this charge outcome to a customer."""
    card = _new(account, outcome) | {"customer": customer["id"], "billing_details": _billed_to(customer)}
    return events.create(account, card, "payment_method.attached")


def _billed_to(customer: Resource) -> Resource:
    return {
        "address": _NO_ADDRESS,
        "email": customer["email"],
        "name": customer["name"],
        "phone": customer["phone"],
        "tax_id": None,
    }


def _new(account: Account, outcome: str) -> Resource:
    """Returns a card without a customer, with this charge outcome."""
    identifier = new_id("pm")
    account.store.put("outcome", identifier, {"outcome": outcome})
    return {
        "id": identifier,
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": {"address": _NO_ADDRESS, "email": None, "name": None, "phone": None, "tax_id": None},
        "card": {
            "brand": "visa",
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "country": "US",
            "display_brand": "visa",
            "exp_month": 12,
            "exp_year": 2034,
            "fingerprint": new_id("fp")[3:19],
            "funding": "credit",
            "generated_from": None,
            "last4": _LAST4[outcome],
            "networks": {"available": ["visa"], "preferred": None},
            "regulated_status": "unregulated",
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
        "created": account.now(),
        "customer": None,
        "customer_account": None,
        "livemode": False,
        "metadata": {},
        "type": "card",
    }


def attach_named(account: Account, customer: Resource, name: str, param: str) -> Resource:
    """Attaches the test card of this name to a customer, or returns the customer's card with this id."""
    stored = account.store.find("payment_method", name)
    if stored is not None and stored["customer"] == customer["id"]:
        return stored
    if stored is not None and stored["customer"] is None:
        attached = {**stored, "customer": customer["id"]}
        return events.create(account, attached, "payment_method.attached")
    if name in _DECLINED_ON_ATTACH:
        raise CardDeclinedError(None, keep=False)
    return attach(account, customer, _test_card(name, param))


def named_card(account: Account, name: str, customer_id: str | None) -> str:
    """Returns the id of a card for one payment: a customer's, an unattached one, or a new test card of this name."""
    stored = account.store.find("payment_method", name)
    if stored is not None and stored["customer"] in {None, customer_id}:
        return name
    outcome = "fail" if name in _DECLINED_ON_ATTACH else _test_card(name, "payment_method")
    return str(account.put(_new(account, outcome))["id"])


def _test_card(name: str, param: str) -> str:
    if name not in TEST_CARDS:
        raise InvalidRequestError(
            f"No such PaymentMethod: '{name[:200]}'; test cards are {', '.join(TEST_CARDS)}",
            code="resource_missing",
            param=param,
        )
    return TEST_CARDS[name]


def card_of(account: Account, customer_id: str, subscription: Resource | None = None) -> str | None:
    """Returns the card that pays: the subscription's own, else the customer's default."""
    customer = account.get("customer", customer_id)
    subscription_card = subscription["default_payment_method"] if subscription else None
    if subscription_card or customer.get("deleted"):
        return subscription_card
    return customer["invoice_settings"]["default_payment_method"]  # type: ignore[no-any-return]


def outcome_of(account: Account, card_id: str | None) -> str:
    """Returns the outcome of charging a card; without a card it is `fail`."""
    return str((account.store.find("outcome", card_id or "") or {"outcome": "fail"})["outcome"])


def set_outcome(account: Account, customer_id: str, outcome: str) -> Resource:
    """Sets the outcome of future charges to all cards of a customer; adds a default card if there is none."""
    customer = account.get("customer", customer_id)
    if customer.get("deleted"):
        raise InvalidRequestError(f"Customer {customer_id} is deleted and has no cards.")
    cards = [card for card in account.store.oldest_first("payment_method") if card["customer"] == customer_id]
    for card in cards:
        account.store.put("outcome", card["id"], {"outcome": outcome})
    default = customer["invoice_settings"]["default_payment_method"]
    if not cards:
        default = attach(account, customer, outcome)["id"]
        settings = {**customer["invoice_settings"], "default_payment_method": default}
        events.change(account, customer, {"invoice_settings": settings})
    return {"customer": customer_id, "outcome": outcome, "cards": [card["id"] for card in cards] or [default]}


def retrieve(account: Account, _params: Params, card_id: str) -> Resource:
    """Returns one card."""
    return account.get("payment_method", card_id)


def list_cards(account: Account, params: Params) -> Resource:
    """Lists a customer's cards, newest first."""
    customer = account.get("customer", params.required("customer"), "customer")
    params.choice("type", "card")
    return page(
        account, params, "payment_method", lambda card: card["customer"] == customer["id"], "/v1/payment_methods"
    )


def attach_card(account: Account, params: Params, name: str) -> Resource:
    """Attaches a test card to a customer."""
    customer = account.get("customer", params.required("customer"), "customer")
    return attach_named(account, customer, name, "payment_method")


def create(account: Account, params: Params) -> Resource:
    """Creates a card from the name of a test token, without a customer until it is attached."""
    params.required("type")
    params.choice("type", "card")
    card = params.nested("card") or Params({}, "card")
    token = card.required("token")
    made = _new(account, _test_card(token.replace("tok_", "pm_card_", 1), "card[token]"))
    details = dict(made["billing_details"])
    if (changed := params.nested("billing_details")) is not None:
        details |= {key: changed.text(key, longest=512) for key in ("email", "name", "phone") if changed.has(key)}
        if (address := changed.nested("address")) is not None:
            details["address"] = {key: address.text(key) for key in _NO_ADDRESS}
    return account.put({**made, "billing_details": details, "metadata": params.metadata()})


def update(account: Account, params: Params, card_id: str) -> Resource:
    """Changes billing details or metadata."""
    card = account.get("payment_method", card_id)
    return events.change(account, card, {"metadata": params.metadata(card["metadata"])})


def detach(account: Account, _params: Params, card_id: str) -> Resource:
    """Detaches a card from its customer, and removes it as default."""
    card = account.get("payment_method", card_id)
    if card["customer"] is None:
        raise InvalidRequestError("The payment method you provided is not attached to a customer.")
    customer = account.get("customer", card["customer"])
    if not customer.get("deleted") and customer["invoice_settings"]["default_payment_method"] == card_id:
        settings = {**customer["invoice_settings"], "default_payment_method": None}
        events.change(account, customer, {"invoice_settings": settings})
    return events.change(account, card, {"customer": None}, "payment_method.detached")


ENDPOINTS = [
    ("POST", "/v1/payment_methods", create),
    ("GET", "/v1/payment_methods", list_cards),
    ("GET", "/v1/payment_methods/{id}", retrieve),
    ("POST", "/v1/payment_methods/{id}", update),
    ("POST", "/v1/payment_methods/{id}/attach", attach_card),
    ("POST", "/v1/payment_methods/{id}/detach", detach),
]
