"""Invoices: amounts owed for a period, from draft over open to paid or void."""

from paybill_stripe_fake import adjustments, events, invoice_items, invoice_lines, payments, prices
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.lists import list_object
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import existing_customer, subscription_of

_PURPOSES = {
    "manual": "Payment for Invoice",
    "subscription_create": "Subscription creation",
    "subscription_cycle": "Subscription update",
    "subscription_update": "Subscription update",
}


def draft(
    account: Account,
    subscription: Resource,
    reason: str,
    *,
    past: tuple[int, int],
    advance: bool,
    recurring: bool = True,
    used: bool = True,
) -> Resource:
    """Drafts the invoice for the subscription's current period, and sets the subscription's `latest_invoice`.

    reason: Stripe's `billing_reason`. past: the period that the invoice closes.
    advance: whether it is finalised and collected automatically.
    recurring: whether it bills for the new period, or only for pending items.
    used: whether it bills for the usage of the past period.
    """
    identifier = subscription["latest_invoice"]
    pending = invoice_items.pending_for(account, subscription["customer"], subscription["id"])
    lines = _lines_of(account, identifier, pending)
    for item in subscription["items"]["data"]:
        if prices.is_metered(item["price"]):
            lines += [invoice_lines.of_usage(account, identifier, subscription, item, past)] if used else []
        elif recurring:
            lines.append(invoice_lines.of_item(account, identifier, subscription, item))
    lines = adjustments.adjusted(account, subscription, lines, identifier)
    details = {"metadata": subscription["metadata"], "subscription": subscription["id"]}
    invoice = _new(account, identifier, subscription["customer"], subscription["currency"], lines) | {
        "auto_advance": advance,
        "billing_reason": reason,
        "parent": {"quote_details": None, "subscription_details": details, "type": "subscription_details"},
        "period_end": past[1],
        "period_start": past[0],
    }
    return events.create(account, invoice)


def draft_manually(
    account: Account, customer_id: str, currency: str, *, include_pending: bool, more: Resource
) -> Resource:
    """Drafts an invoice without a subscription, optionally with the customer's pending items."""
    identifier = new_id("in")
    pending = invoice_items.pending_for(account, customer_id, None) if include_pending else []
    lines = _lines_of(account, identifier, pending)
    return events.create(account, _new(account, identifier, customer_id, currency, lines) | more)


def with_added_items(account: Account, invoice: Resource) -> Resource:
    """Returns the draft with the items that were added to it since."""
    added = invoice_items.added_to(account, invoice["id"])
    lines = [*invoice["lines"]["data"], *_lines_of(account, invoice["id"], added)]
    changes = {"lines": {**invoice["lines"], "data": lines}, **_amounts(account, invoice["customer"], lines)}
    return events.change(account, invoice, changes) if added else invoice


def _with_usage(account: Account, invoice: Resource) -> Resource:
    """Returns the draft with the usage that was reported since."""
    lines = [invoice_lines.with_usage(account, invoice["customer"], line) for line in invoice["lines"]["data"]]
    of = subscription_of(invoice)
    lines = adjustments.adjusted(account, account.get("subscription", of) if of else None, lines, invoice["id"])
    if lines == invoice["lines"]["data"]:
        return invoice
    changes = {"lines": {**invoice["lines"], "data": lines}, **_amounts(account, invoice["customer"], lines)}
    return account.put({**invoice, **changes})


def _lines_of(account: Account, invoice_id: str, pending: list[Resource]) -> list[Resource]:
    for item in pending:
        invoice_items.bill(account, item, invoice_id)
    return [invoice_lines.of_invoice_item(invoice_id, item) for item in pending]


def _amounts(account: Account, customer_id: str, lines: list[Resource]) -> Resource:
    """Returns the amounts of the lines, and what remains to pay after the customer's balance."""
    totals = adjustments.amounts(lines)
    balance = account.get("customer", customer_id)["balance"]
    due = max(0, totals["total"] + balance)
    return {"amount_due": due, "amount_remaining": due, "starting_balance": balance, **totals}


def _new(account: Account, identifier: str, customer_id: str, currency: str, lines: list[Resource]) -> Resource:
    customer, now = account.get("customer", customer_id), account.now()
    return {
        **_amounts(account, customer_id, lines),
        "id": identifier,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Stripe fake",
        "account_tax_ids": None,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_shipping": 0,
        "application": None,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": False,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "automatically_finalizes_at": None,
        "billing_reason": "manual",
        "collection_method": "charge_automatically",
        "created": now,
        "currency": currency,
        "custom_fields": None,
        "customer": customer["id"],
        "customer_account": None,
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_shipping": None,
        "customer_tax_exempt": customer["tax_exempt"],
        "customer_tax_ids": [],
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "due_date": None,
        "effective_at": None,
        "ending_balance": None,
        "footer": None,
        "from_invoice": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "issuer": {"type": "self"},
        "last_finalization_error": None,
        "latest_revision": None,
        "lines": list_object(lines, f"/v1/invoices/{identifier}/lines"),
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": None,
        "number": None,
        "on_behalf_of": None,
        "parent": None,
        "payment_settings": {"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
        "period_end": now,
        "period_start": now,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": None,
        "rendering": None,
        "shipping_cost": None,
        "shipping_details": None,
        "statement_descriptor": None,
        "status": "draft",
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "test_clock": None,
        "total_pretax_credit_amounts": [],
        "webhooks_delivered_at": None,
    }


def finalize(account: Account, invoice: Resource) -> Resource:
    """Numbers the draft and applies the customer's balance; an invoice with nothing left to pay is paid at once."""
    customer = existing_customer(account, invoice["customer"])
    invoice = _with_usage(account, with_added_items(account, invoice))
    sequence = customer["next_invoice_sequence"]
    account.put({**customer, "next_invoice_sequence": sequence + 1})
    amounts = _amounts(account, customer["id"], invoice["lines"]["data"])
    left = min(0, amounts["total"] + customer["balance"])
    events.change(account, account.get("customer", customer["id"]), {"balance": left})
    now = account.now()
    opened = {
        **invoice,
        **amounts,
        "status": "open",
        "automatically_finalizes_at": None,
        "number": f"{customer['invoice_prefix']}-{sequence:04}",
        "effective_at": now,
        "ending_balance": left,
        "status_transitions": {**invoice["status_transitions"], "finalized_at": now},
    }
    account.put(opened)
    events.emit(account, "invoice.finalized", opened)
    return opened if opened["amount_due"] else mark_paid(account, opened)


def intent_of(account: Account, invoice: Resource) -> Resource:
    """Returns the payment intent of an invoice, created on first use."""
    payment = account.store.find("invoice_payment", _payment_id(invoice))
    if payment is not None:
        return account.get("payment_intent", payment["payment"]["payment_intent"])
    intent = payments.new_intent(
        account, invoice["customer"], invoice["amount_due"], invoice["currency"], _PURPOSES[invoice["billing_reason"]]
    )
    account.put(
        {
            "id": _payment_id(invoice),
            "object": "invoice_payment",
            "amount_paid": None,
            "amount_requested": invoice["amount_due"],
            "created": account.now(),
            "currency": invoice["currency"],
            "invoice": invoice["id"],
            "is_default": True,
            "livemode": False,
            "payment": {"payment_intent": intent["id"], "type": "payment_intent"},
            "status": "open",
            "status_transitions": {"canceled_at": None, "paid_at": None},
        }
    )
    return intent


def mark_paid(account: Account, invoice: Resource, *, attempts: int = 0) -> Resource:
    """Marks an invoice as paid, after `attempts` more attempts."""
    now = account.now()
    paid = {
        "status": "paid",
        "amount_paid": invoice["amount_due"],
        "amount_remaining": 0,
        "attempted": True,
        "attempt_count": invoice["attempt_count"] + attempts,
        "auto_advance": False,
        "next_payment_attempt": None,
        "status_transitions": {**invoice["status_transitions"], "paid_at": now},
    }
    payment = account.store.find("invoice_payment", _payment_id(invoice))
    if payment is not None and account.get("payment_intent", payment["payment"]["payment_intent"])["amount_received"]:
        transitions = {**payment["status_transitions"], "paid_at": now}
        settled = {"status": "paid", "amount_paid": invoice["amount_due"], "status_transitions": transitions}
        account.put({**payment, **settled})
        events.emit(account, "invoice_payment.paid", {**payment, **settled})
    invoice = events.change(account, invoice, paid)
    events.emit(account, "invoice.paid", invoice)
    events.emit(account, "invoice.payment_succeeded", invoice)
    return invoice


def void(account: Account, invoice: Resource) -> Resource:
    """Voids an invoice; it is no longer owed, and the credit that it used is the customer's again.

    Source: https://docs.stripe.com/api/customer_balance_transactions/object, the type `unapplied_from_invoice`.
    """
    used = (invoice["ending_balance"] or 0) - (invoice["starting_balance"] or 0)
    customer = account.get("customer", invoice["customer"])
    if used > 0 and not customer.get("deleted"):
        events.change(account, customer, {"balance": customer["balance"] - used})
    return _written_off(account, invoice, "void", "voided")


def mark_uncollectible(account: Account, invoice: Resource) -> Resource:
    """Marks an invoice as owed but uncollectible."""
    return _written_off(account, invoice, "uncollectible", "marked_uncollectible")


def _written_off(account: Account, invoice: Resource, status: str, done: str) -> Resource:
    off = {
        **invoice,
        "status": status,
        "auto_advance": False,
        "next_payment_attempt": None,
        "status_transitions": {**invoice["status_transitions"], f"{done}_at": account.now()},
    }
    account.put(off)
    events.emit(account, f"invoice.{done}", off)
    return off


def payments_of(account: Account, invoice: Resource) -> Resource:
    """Returns the list that `expand[]=payments` shows."""
    payment = account.store.find("invoice_payment", _payment_id(invoice))
    return list_object([payment] if payment else [], f"/v1/invoice_payments?invoice={invoice['id']}")


def _payment_id(invoice: Resource) -> str:
    # Derived from the invoice's id, so that its one payment is found without a search.
    return f"inpay_{invoice['id'].removeprefix('in_')}"
