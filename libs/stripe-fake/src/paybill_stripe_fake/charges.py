"""Charges: each attempt to charge a card, and the refunded amount."""

from paybill_stripe_fake import events
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.store import Resource

_NO_ADDRESS = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
_EMPTY_BILLING_DETAILS = {"address": _NO_ADDRESS, "email": None, "name": None, "phone": None, "tax_id": None}
_NO_3DS = {
    "authentication_flow": None,
    "electronic_commerce_indicator": None,
    "exemption_indicator": None,
    "result": None,
    "result_reason": None,
    "transaction_id": None,
    "version": None,
}


def attempt(account: Account, intent: Resource, card: Resource | None, *, succeeded: bool) -> Resource:
    """Returns the charge of one attempt, and emits its event."""
    status = "succeeded" if succeeded else "failed"
    charge = {
        "id": new_id("ch"),
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": intent["amount"] if succeeded else 0,
        "amount_refunded": 0,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "authorization_code": None,
        "balance_transaction": None,
        "billing_details": card["billing_details"] if card else _EMPTY_BILLING_DETAILS,
        "calculated_statement_descriptor": None,
        "captured": succeeded,
        "created": account.now(),
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": None if succeeded else "card_declined",
        "failure_message": None if succeeded else "Your card was declined.",
        "fraud_details": {},
        "livemode": False,
        "metadata": {},
        "on_behalf_of": None,
        "outcome": {
            "advice_code": None,
            "network_advice_code": None,
            "network_decline_code": None,
            "network_status": "approved_by_network" if succeeded else "declined_by_network",
            "reason": None if succeeded else "generic_decline",
            "risk_level": "normal",
            "seller_message": "Payment complete."
            if succeeded
            else "The bank did not return any further details with this decline.",
            "type": "authorized" if succeeded else "issuer_declined",
        },
        "paid": succeeded,
        "payment_intent": intent["id"],
        "payment_method": card and card["id"],
        "payment_method_details": card and {"card": _details(card, intent["amount"]), "type": "card"},
        "receipt_email": None,
        "receipt_number": None,
        "receipt_url": None,
        "refunded": False,
        "review": None,
        "shipping": None,
        "source": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": status,
        "transfer_data": None,
        "transfer_group": None,
    }
    return events.create(account, charge, f"charge.{status}")


def retrieve(account: Account, _params: Params, charge_id: str) -> Resource:
    """Returns one charge."""
    return account.get("charge", charge_id)


def list_charges(account: Account, params: Params) -> Resource:
    """Lists charges, newest first."""
    exact = {key: params.text(key) for key in ("customer", "payment_intent")}
    created = params.within("created")

    def matches(charge: Resource) -> bool:
        return created(charge["created"]) and all(value in {None, charge[key]} for key, value in exact.items())

    return page(account, params, "charge", matches, "/v1/charges")


def update(account: Account, params: Params, charge_id: str) -> Resource:
    """Changes description or metadata."""
    charge = account.get("charge", charge_id)
    changes: Resource = {"metadata": params.metadata(charge["metadata"])}
    if params.has("description"):
        changes["description"] = params.text("description")
    return events.change(account, charge, changes)


def _details(card: Resource, amount: int) -> Resource:
    of_card = card["card"]
    same = ("brand", "country", "exp_month", "exp_year", "fingerprint", "funding", "last4")
    return {
        **{key: of_card[key] for key in same},
        "amount_authorized": amount,
        "authorization_code": None,
        "checks": of_card["checks"],
        "extended_authorization": {"status": "disabled"},
        "incremental_authorization": {"status": "unavailable"},
        "installments": None,
        "mandate": None,
        "multicapture": {"status": "unavailable"},
        "network": of_card["brand"],
        "network_token": {"used": False},
        "network_transaction_id": None,
        "overcapture": {"maximum_amount_capturable": amount, "status": "unavailable"},
        "regulated_status": of_card["regulated_status"],
        "three_d_secure": _NO_3DS,
        "transaction_link_id": None,
        "wallet": None,
    }


ENDPOINTS = [
    ("GET", "/v1/charges", list_charges),
    ("GET", "/v1/charges/{id}", retrieve),
    ("POST", "/v1/charges/{id}", update),
]
