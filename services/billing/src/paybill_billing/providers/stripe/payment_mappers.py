"""Stripe's refunds and disputes in our words, and what the objects around them lead to, in shapes old and new.

What moved is in https://docs.stripe.com/changelog: a charge's refunds are listed apart (2022-11-15), and its invoice is
found through invoice payments (2025-03-31.basil).
"""

from collections.abc import Mapping
from typing import Any

from paybill_contracts.payments import DisputeOutcome

from paybill_billing.providers.port.snapshots import Dispute, Refund
from paybill_billing.providers.stripe.mappers import Json, id_of, money_of, text_of, time_of, word_of

LEADING = {
    "checkout.session": "/v1/checkout/sessions",
    "invoice": "/v1/invoices",
    "subscription_schedule": "/v1/subscription_schedules",
}
"""Objects that only lead to a subscription, and where they are found."""

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


def refund(shown: Json) -> Refund | None:
    """A refund; None when nothing went back. Raises ShapeError."""
    if word_of(shown, "status") in _UNDONE:
        return None
    return Refund(
        id=text_of(shown, "id"),
        amount=money_of(shown.get("amount"), shown.get("currency"), shown),
        reason=_reason(shown),
    )


def dispute(shown: Json) -> Dispute:
    """A dispute, as it stands. Raises ShapeError."""
    details = shown.get("evidence_details")
    due = details.get("due_by") if isinstance(details, Mapping) else shown.get("evidence_due_by")
    return Dispute(
        id=text_of(shown, "id"),
        amount=money_of(shown.get("amount"), shown.get("currency"), shown),
        reason=_reason(shown),
        respond_by=time_of(due),
        outcome=_OUTCOMES.get(word_of(shown, "status") or ""),
    )


def related(event: Json) -> tuple[str, str] | None:
    """Kind and id of the object that a thin event names, or that an alert about a lost event does."""
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
    """What is looked at for this object: a subscription by its id, another with its kind; None for what we leave."""
    if kind == "subscription":
        return id_
    return f"{kind}/{id_}" if kind in _RETURNS or kind in LEADING else None


def return_target(type_: str, item: Json) -> str | None:
    """What is looked at for an event about money that goes back; None for other events."""
    kind, id_, charge = item.get("object"), id_of(item), id_of(item.get("charge"))
    match kind:
        case "refund" | "dispute" if id_ is not None:
            return f"{kind}/{id_}"
        case "dispute" if charge is not None:  # before 2014 a dispute had no name
            return f"charge/{charge}"
        case "charge" if id_ is not None and type_.removeprefix("v1.") == REFUNDED:
            return f"charge/{id_}"
        case _:
            return None


def invoice_of(charge: Json) -> str | None:
    """The invoice that a charge paid, where the charge still says so."""
    return id_of(charge.get("invoice"))


def first_invoice(page: Any) -> Json | None:
    """The invoice of the first of these invoice payments, expanded."""
    payments = page.get("data") if isinstance(page, Mapping) else None
    found = payments[0].get("invoice") if payments and isinstance(payments[0], Mapping) else None
    return found if isinstance(found, Mapping) else None


def _reason(shown: Json) -> str | None:
    reason = word_of(shown, "reason")
    return reason if reason is not None and reason.isidentifier() and reason.isascii() else None
