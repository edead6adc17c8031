"""Collects invoices, and applies the outcome of a payment to the invoiced subscription."""

from paybill_stripe_fake import events, invoices, payments
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.errors import CardDeclinedError, InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.payment_methods import OUTCOMES, attach_named, card_of
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import ENDED, change, end, existing_customer, reactivate, subscription_of


def collect(
    account: Account, invoice: Resource, *, card: str | None = None, outcome: str | None = None, automatic: bool = True
) -> Resource:
    """Charges for an open invoice and applies the outcome; the invoice then is `paid`, or still `open`.

    card: pays this time instead of the default card. outcome: overrides how the charge ends.
    automatic: an attempt of the retry schedule, which uses up a retry; a manual attempt does not.
    """
    subscription = _invoiced_subscription(account, invoice)
    card = card or card_of(account, invoice["customer"], subscription)
    intent = payments.attempt(account, invoices.intent_of(account, invoice), card, outcome)
    counts = automatic or not invoice["attempted"]
    if intent["status"] == "succeeded":
        return _settled(account, invoices.mark_paid(account, invoice, attempts=int(counts)))
    return _declined(account, invoice, subscription, counts=counts)


def bill(
    account: Account,
    subscription: Resource,
    reason: str,
    past: tuple[int, int],
    *,
    recurring: bool = True,
    used: bool = True,
) -> Resource:
    """Drafts the invoice of the new period, or only of pending items and usage, and collects it."""
    dormant, paused = subscription["status"] == "unpaid", subscription["pause_collection"]
    invoice = invoices.draft(
        account, subscription, reason, past=past, advance=not (dormant or paused), recurring=recurring, used=used
    )
    if invoice["total"] and (dormant or (paused and paused["behavior"] == "keep_as_draft")):
        # Invoices of an unpaid subscription stay drafts; paying the draft reactivates it.
        return invoice
    if recurring and reason == "subscription_cycle" and (delay_s := account.finalization_delay_s()):
        return events.change(account, invoice, {"automatically_finalizes_at": account.now() + delay_s})
    return finalize_and_collect(account, invoice)


def finalizes_at(invoice: Resource) -> int | None:
    """Returns the time at which a draft is finalised by itself, or None."""
    return invoice["automatically_finalizes_at"] if invoice["status"] == "draft" else None


def finalize_and_collect(account: Account, invoice: Resource) -> Resource:
    """Finalises the draft of a period and collects it, as the subscription's pause of collection allows."""
    subscription = _invoiced_subscription(account, invoice)
    paused = subscription["pause_collection"] if subscription else None
    invoice = finalize(account, invoice)
    if invoice["status"] != "open":
        return invoice
    match paused and paused["behavior"]:
        case "void":
            return invoices.void(account, invoice)
        case "mark_uncollectible":
            return invoices.mark_uncollectible(account, invoice)
        case _:
            return collect(account, invoice)


def finalize(account: Account, invoice: Resource) -> Resource:
    """Finalises a draft; an invoice over zero is paid at once."""
    invoice = invoices.finalize(account, invoice)
    return invoice if invoice["status"] == "open" else _settled(account, invoice)


def _settled(account: Account, invoice: Resource) -> Resource:
    """Reactivates the subscription if the paid invoice is its latest."""
    subscription = _invoiced_subscription(account, invoice)
    if subscription is None or subscription["latest_invoice"] == invoice["id"]:
        if subscription and subscription["status"] in {"incomplete", "past_due", "unpaid"}:
            change(account, subscription, {"status": "active"})
        if subscription and subscription["status"] == "paused":
            reactivate(account, subscription)
        _set_delinquent(account, invoice["customer"], delinquent=False)
    return invoice


def pay(account: Account, params: Params, invoice_id: str) -> Resource:
    """Pays an invoice now, by card or out of band; a declined card returns 402, and the attempt is recorded."""
    invoice = _payable(account, invoice_id)
    elsewhere, named = params.flag("paid_out_of_band"), params.text("payment_method")
    params.flag("off_session")
    if elsewhere:
        return _settled(account, invoices.mark_paid(account, invoice))
    customer = existing_customer(account, invoice["customer"])
    card = attach_named(account, customer, named, "payment_method")["id"] if named else None
    if not card and not card_of(account, customer["id"], _invoiced_subscription(account, invoice)):
        raise InvalidRequestError(
            "There is no default payment method for this invoice; the customer has no card.", code="resource_missing"
        )
    invoice = collect(account, invoice, card=card, automatic=False)
    if invoice["status"] != "paid":
        raise CardDeclinedError(invoices.intent_of(account, invoice), keep=True)
    return invoice


def pay_with_outcome(account: Account, params: Params, invoice_id: str) -> Resource:
    """Pays an invoice with the requested outcome, `succeed` by default."""
    outcome = params.choice("outcome", *OUTCOMES) or "succeed"
    return collect(account, _payable(account, invoice_id), outcome=outcome, automatic=False)


def _payable(account: Account, invoice_id: str) -> Resource:
    invoice = account.get("invoice", invoice_id)
    if invoice["status"] == "draft":
        invoice = invoices.finalize(account, invoice)
    if invoice["status"] == "paid":
        raise InvalidRequestError("Invoice is already paid")
    if invoice["status"] != "open":
        raise InvalidRequestError(f"Invoice is {invoice['status']} and cannot be paid", code="invoice_not_editable")
    return invoice


def _invoiced_subscription(account: Account, invoice: Resource) -> Resource | None:
    identifier = subscription_of(invoice)
    return account.get("subscription", identifier) if identifier else None


def _declined(account: Account, invoice: Resource, subscription: Resource | None, *, counts: bool) -> Resource:
    """Schedules the next attempt, or applies the policy's final status; `counts` means that it uses up a retry."""
    attempts = invoice["attempt_count"] + counts
    status = subscription["status"] if subscription else "active"
    retried = status not in ENDED and status != "incomplete" and invoice["auto_advance"]
    changes: Resource = {"attempted": True, "attempt_count": attempts}
    if not retried:
        changes["next_payment_attempt"] = None
    elif counts:
        changes["next_payment_attempt"] = account.retry_policy.next_attempt(attempts, account.now())
    invoice = events.change(account, invoice, changes)
    if invoices.intent_of(account, invoice)["status"] == "requires_action":
        events.emit(account, "invoice.payment_action_required", invoice)
    events.emit(account, "invoice.payment_failed", invoice)
    _set_delinquent(account, invoice["customer"], delinquent=True)
    if retried and subscription:
        if status in {"active", "trialing"}:
            subscription = change(account, subscription, {"status": "past_due"})
        if counts and invoice["next_payment_attempt"] is None:
            _give_up(account, subscription)
    return account.get("invoice", invoice["id"])


def _give_up(account: Account, subscription: Resource) -> None:
    match account.retry_policy.finally_status:
        case "canceled":
            end(account, subscription, "payment_failed")
        case status:
            change(account, subscription, {"status": status})


def _set_delinquent(account: Account, customer_id: str, *, delinquent: bool) -> None:
    customer = account.get("customer", customer_id)
    if not customer.get("deleted"):
        events.change(account, customer, {"delinquent": delinquent})


ENDPOINTS = [("POST", "/v1/invoices/{id}/pay", pay)]
