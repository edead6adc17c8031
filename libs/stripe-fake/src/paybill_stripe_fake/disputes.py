"""Disputes: a cardholder contests a charge, and the bank decides."""

from paybill_stripe_fake import events
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.store import Resource

_REASONS = ("duplicate", "fraudulent", "general", "product_not_received", "subscription_canceled", "unrecognized")
_RESPONSE_TIME_S = 9 * 86_400
_EVIDENCE = (
    "access_activity_log",
    "billing_address",
    "cancellation_policy",
    "cancellation_policy_disclosure",
    "cancellation_rebuttal",
    "customer_communication",
    "customer_email_address",
    "customer_name",
    "customer_purchase_ip",
    "customer_signature",
    "duplicate_charge_documentation",
    "duplicate_charge_explanation",
    "duplicate_charge_id",
    "product_description",
    "receipt",
    "refund_policy",
    "refund_policy_disclosure",
    "refund_refusal_explanation",
    "service_date",
    "service_documentation",
    "shipping_address",
    "shipping_carrier",
    "shipping_date",
    "shipping_documentation",
    "shipping_tracking_number",
    "uncategorized_file",
    "uncategorized_text",
)
_CLOSED = frozenset({"won", "lost", "warning_closed"})


def start(account: Account, charge: Resource, *, inquiry: bool, reason: str = "fraudulent") -> Resource:
    """Disputes a charge; an inquiry does not withdraw the money."""
    if charge["disputed"] or not charge["paid"]:
        raise InvalidRequestError(f"Charge {charge['id']} was not paid, or is disputed already.")
    amount = charge["amount_captured"] - charge["amount_refunded"]
    dispute = {
        "id": new_id("du"),
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": account.now(),
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {**dict.fromkeys(_EVIDENCE), "enhanced_evidence": {}},
        "evidence_details": {
            "due_by": account.now() + _RESPONSE_TIME_S,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        "is_charge_refundable": inquiry,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": {
                "brand": "visa",
                "case_type": "inquiry" if inquiry else "chargeback",
                "network": "visa",
                "network_reason_code": "10.4",
            },
            "type": "card",
        },
        "reason": reason,
        "status": "warning_needs_response" if inquiry else "needs_response",
    }
    account.put({**charge, "disputed": True})
    events.create(account, dispute, "charge.dispute.created")
    if not inquiry:
        events.emit(account, "charge.dispute.funds_withdrawn", dispute)
    return dispute


def finish(account: Account, dispute: Resource, outcome: str) -> Resource:
    """Closes a dispute: `won` returns the money, `lost` does not; an inquiry moves no money."""
    if dispute["status"] in _CLOSED:
        raise InvalidRequestError(f"This dispute is already closed: {dispute['status']}.")
    inquiry = dispute["status"].startswith("warning")
    status = "warning_closed" if inquiry and outcome == "won" else outcome
    closed = events.change(account, dispute, {"status": status}, "charge.dispute.closed")
    if status == "won":
        events.emit(account, "charge.dispute.funds_reinstated", closed)
    return closed


def dispute_payment(account: Account, params: Params, charge_id: str) -> Resource:
    """Disputes a charge, or the charge that paid an invoice or a payment intent."""
    reason, inquiry = params.choice("reason", *_REASONS) or "fraudulent", params.flag("inquiry") or False
    return start(account, _charge_of(account, charge_id), inquiry=inquiry, reason=reason)


def close_with_outcome(account: Account, params: Params, dispute_id: str) -> Resource:
    """Closes a dispute as the bank would."""
    params.required("outcome")
    outcome = params.choice("outcome", "won", "lost") or ""
    return finish(account, account.get("dispute", dispute_id), outcome)


def retrieve(account: Account, _params: Params, dispute_id: str) -> Resource:
    """Returns one dispute."""
    return account.get("dispute", dispute_id)


def list_disputes(account: Account, params: Params) -> Resource:
    """Lists disputes, newest first."""
    exact = {key: params.text(key) for key in ("charge", "payment_intent")}
    created = params.within("created")

    def matches(dispute: Resource) -> bool:
        return created(dispute["created"]) and all(value in {None, dispute[key]} for key, value in exact.items())

    return page(account, params, "dispute", matches, "/v1/disputes")


def update(account: Account, params: Params, dispute_id: str) -> Resource:
    """Adds evidence, which is reviewed once it is submitted."""
    dispute = account.get("dispute", dispute_id)
    changes: Resource = {"metadata": params.metadata(dispute["metadata"])}
    evidence = params.nested("evidence")
    if evidence is not None:
        texts = {key: evidence.text(key) for key in _EVIDENCE if evidence.has(key)}
        changes["evidence"] = {**dispute["evidence"], **texts}
        submit = params.flag("submit") is not False
        changes["evidence_details"] = {
            **dispute["evidence_details"],
            "has_evidence": True,
            "submission_count": dispute["evidence_details"]["submission_count"] + submit,
            "submission_method": "manual" if submit else "not_submitted",
        }
        if submit and dispute["status"] not in _CLOSED:
            changes["status"] = dispute["status"].replace("needs_response", "under_review")
    return events.change(account, dispute, changes, "charge.dispute.updated")


def close(account: Account, _params: Params, dispute_id: str) -> Resource:
    """Accepts that the dispute is lost."""
    return finish(account, account.get("dispute", dispute_id), "lost")


def _charge_of(account: Account, identifier: str) -> Resource:
    if identifier.startswith("in_"):
        payment = account.get("invoice_payment", f"inpay_{account.get('invoice', identifier)['id'][3:]}")
        identifier = payment["payment"]["payment_intent"]
    if identifier.startswith("pi_"):
        identifier = str(account.get("payment_intent", identifier)["latest_charge"])
    return account.get("charge", identifier)


ENDPOINTS = [
    ("GET", "/v1/disputes", list_disputes),
    ("GET", "/v1/disputes/{id}", retrieve),
    ("POST", "/v1/disputes/{id}", update),
    ("POST", "/v1/disputes/{id}/close", close),
]
