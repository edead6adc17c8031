"""Refunds of a charge, in full or in part."""

from paybill_stripe_fake import events
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import list_object, page
from paybill_stripe_fake.store import Resource

_REASONS = ("duplicate", "fraudulent", "requested_by_customer")


def create(account: Account, params: Params) -> Resource:
    """Refunds a charge: `amount`, or all that is left of it."""
    charge = _charge(account, params)
    left = charge["amount_captured"] - charge["amount_refunded"]
    amount = params.integer("amount", least=1)
    if charge["disputed"]:
        raise InvalidRequestError(
            f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed"
        )
    if left == 0:
        raise InvalidRequestError(
            f"Charge {charge['id']} has already been refunded or was never paid.", code="charge_already_refunded"
        )
    if amount is not None and amount > left:
        raise InvalidRequestError(
            f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})", param="amount"
        )
    amount = amount or left
    refund = {
        "id": new_id("re"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": account.now(),
        "currency": charge["currency"],
        "customer": charge["customer"],
        "customer_account": None,
        "destination_details": {"card": {"type": "refund"}, "type": "card"},
        "metadata": params.metadata(),
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "reason": params.choice("reason", *_REASONS),
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }
    events.create(account, refund)
    _settle(account, charge, charge["amount_refunded"] + amount, "charge.refunded")
    return refund


def retrieve(account: Account, _params: Params, refund_id: str) -> Resource:
    """Returns one refund."""
    return account.get("refund", refund_id)


def list_refunds(account: Account, params: Params) -> Resource:
    """Lists refunds, newest first."""
    exact = {key: params.text(key) for key in ("charge", "payment_intent")}
    created = params.within("created")

    def matches(refund: Resource) -> bool:
        return created(refund["created"]) and all(value in {None, refund[key]} for key, value in exact.items())

    return page(account, params, "refund", matches, "/v1/refunds")


def update(account: Account, params: Params, refund_id: str) -> Resource:
    """Changes the metadata."""
    refund = account.get("refund", refund_id)
    return _change(account, refund, {"metadata": params.metadata(refund["metadata"])})


def fail(account: Account, _params: Params, refund_id: str) -> Resource:
    """Fails a refund, as when the bank returns it days later."""
    refund = account.get("refund", refund_id)
    if refund["status"] != "succeeded":
        raise InvalidRequestError(f"Refund {refund_id} is {refund['status']}.")
    failed = _change(account, refund, {"status": "failed", "failure_reason": "lost_or_stolen_card"})
    events.emit(account, "refund.failed", failed)
    charge = account.get("charge", refund["charge"])
    _settle(account, charge, charge["amount_refunded"] - refund["amount"], "charge.updated")
    return failed


def of_charge(account: Account, charge: Resource) -> Resource:
    """Returns the list that `expand[]=refunds` shows."""
    found = [refund for refund in account.store.newest_first("refund") if refund["charge"] == charge["id"]]
    return list_object(found, f"/v1/charges/{charge['id']}/refunds")


def _settle(account: Account, charge: Resource, refunded: int, event: str) -> None:
    changes = {"amount_refunded": refunded, "refunded": refunded == charge["amount_captured"]}
    events.change(account, charge, changes, event)


def _change(account: Account, refund: Resource, changes: Resource) -> Resource:
    changed = events.change(account, refund, changes, "refund.updated")
    if changed != refund:
        events.emit(account, "charge.refund.updated", changed)
    return changed


def _charge(account: Account, params: Params) -> Resource:
    named, intent = params.text("charge"), params.text("payment_intent")
    if bool(named) == bool(intent):
        raise InvalidRequestError(
            "One of the following params should be provided for this request: payment_intent or charge.",
            code="parameter_missing",
            param="payment_intent",
        )
    if intent:
        named = account.get("payment_intent", intent, "payment_intent")["latest_charge"]
        if named is None:
            raise InvalidRequestError(f"PaymentIntent {intent} does not have a successful charge to refund.")
    return account.get("charge", str(named), "charge")


ENDPOINTS = [
    ("POST", "/v1/refunds", create),
    ("GET", "/v1/refunds", list_refunds),
    ("GET", "/v1/refunds/{id}", retrieve),
    ("POST", "/v1/refunds/{id}", update),
]
