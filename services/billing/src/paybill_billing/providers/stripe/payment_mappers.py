"""Maps Stripe's refunds and disputes, and resolves the objects around them, for old and new API versions.

Changes are in https://docs.stripe.com/changelog: refunds are listed separately from their charge (2022-11-15), and a
charge refers to its invoice through invoice payments (2025-03-31.basil).
"""

from collections.abc import Mapping
from typing import Any

from paybill_contracts.payments import DisputeOutcome

from paybill_billing.providers.port.snapshots import Dispute, Refund
from paybill_billing.providers.stripe.mappers import Json, id_of, money_of, optional_text_of, text_of, time_of
from paybill_billing.providers.sync_queue import CUSTOMER

CHECKOUT = "checkout.session"
INVOICE_ITEM = "invoiceitem"
SCHEDULE = "subscription_schedule"
REFERRING_PATHS = {
    CHECKOUT: "/v1/checkout/sessions",
    "invoice": "/v1/invoices",
    INVOICE_ITEM: "/v1/invoiceitems",
    SCHEDULE: "/v1/subscription_schedules",
}
"""Paths of the objects that only refer to a subscription or a customer."""

EXPIRED = "checkout.session.expired"
REFUNDED = "charge.refunded"
_RETURNS = frozenset({"charge", "refund", "dispute"})
_UNDONE = frozenset({"failed", "canceled"})
_OUTCOMES = {
    "won": DisputeOutcome.WON,
    "lost": DisputeOutcome.LOST,
    "charge_refunded": DisputeOutcome.LOST,
    "warning_closed": DisputeOutcome.DROPPED,
    "prevented": DisputeOutcome.DROPPED,
}


def refund(data: Json) -> Refund | None:
    """Returns a refund; None for a failed or cancelled one. Raises MalformedObjectError."""
    if optional_text_of(data, "status") in _UNDONE:
        return None
    return Refund(
        id=text_of(data, "id"),
        amount=money_of(data.get("amount"), data.get("currency"), data),
        reason=_reason(data),
    )


def dispute(data: Json) -> Dispute:
    """Returns a dispute in its current state. Raises MalformedObjectError."""
    details = data.get("evidence_details")
    due = details.get("due_by") if isinstance(details, Mapping) else data.get("evidence_due_by")
    return Dispute(
        id=text_of(data, "id"),
        amount=money_of(data.get("amount"), data.get("currency"), data),
        reason=_reason(data),
        respond_by=time_of(due),
        outcome=_OUTCOMES.get(optional_text_of(data, "status") or ""),
    )


def takes_money(dispute: Json) -> bool:
    """Returns whether a dispute has withdrawn the payment: it is open or lost, and no mere inquiry."""
    status = optional_text_of(dispute, "status") or ""
    return _OUTCOMES.get(status, DisputeOutcome.LOST) is DisputeOutcome.LOST and not status.startswith("warning")


def related(event: Json) -> tuple[str, str] | None:
    """Returns kind and id of the object that a thin event, or an alert about a missing event, names."""
    data = event.get("data")
    impact = data.get("impact") if isinstance(data, Mapping) else None
    for holder in (impact, event):
        named = holder.get("related_object") if isinstance(holder, Mapping) else None
        if isinstance(named, Mapping):
            kind, id_ = named.get("type"), id_of(named)
            if isinstance(kind, str) and id_ is not None:
                return kind.removeprefix("customer."), id_
    return None


def target_of(kind: str, id_: str) -> str | None:
    """Returns the sync target of an object: a subscription's id, or `<kind>/<id>`; None for kinds that are ignored."""
    if kind == "subscription":
        return id_
    return f"{kind}/{id_}" if kind in _RETURNS or kind in REFERRING_PATHS else None


def return_target(type_: str, item: Json) -> str | None:
    """Returns the sync target of an event about a refund or dispute; None for other events."""
    kind, id_, charge = item.get("object"), id_of(item), id_of(item.get("charge"))
    match kind:
        case "refund" | "dispute" if id_ is not None:
            return f"{kind}/{id_}"
        case "dispute" if charge is not None:  # before 2014 a dispute had no id
            return f"charge/{charge}"
        case "charge" if id_ is not None and type_.removeprefix("v1.") == REFUNDED:
            return f"charge/{id_}"
        case _:
            return None


def expired_target(type_: str, item: Json) -> str | None:
    """Returns the sync target of an event about a checkout that expired; None for other events."""
    id_ = id_of(item)
    return f"{CHECKOUT}/{id_}" if type_.removeprefix("v1.") == EXPIRED and id_ is not None else None


def charge_target(item: Json) -> str | None:
    """Returns the sync target of an object that can charge its customer without a subscription; None for others."""
    customer = id_of(item.get("customer"))
    return f"{CUSTOMER}/{customer}" if item.get("object") in {INVOICE_ITEM, SCHEDULE} and customer else None


def invoice_of(charge: Json) -> str | None:
    """Returns the invoice of a charge; newer API versions do not have it."""
    return id_of(charge.get("invoice"))


def first_invoice(page: Any) -> Json | None:
    """Returns the expanded invoice of the first invoice payment."""
    payments = page.get("data") if isinstance(page, Mapping) else None
    found = payments[0].get("invoice") if payments and isinstance(payments[0], Mapping) else None
    return found if isinstance(found, Mapping) else None


def _reason(data: Json) -> str | None:
    reason = optional_text_of(data, "reason")
    return reason if reason is not None and reason.isidentifier() and reason.isascii() else None
