"""Invoices: what a subscription owes for a period, from draft over open to paid or void."""

from paybill_stripe_fake import events, payments, prices
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import list_object, page, page_of
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import period_of, subscription_of

_PURPOSES = {
    "subscription_create": "Subscription creation",
    "subscription_cycle": "Subscription update",
    "subscription_update": "Subscription update",
}


def draft(account: Account, subscription: Resource, reason: str, *, past: tuple[int, int], advance: bool) -> Resource:
    """The invoice for the subscription's current period, under the id that it names as its latest.

    reason: Stripe's `billing_reason`. past: the period that the invoice closes.
    advance: whether it will be finalised and collected by itself.
    """
    customer = account.get("customer", subscription["customer"])
    identifier = subscription["latest_invoice"]
    lines = [_line(account, identifier, subscription, item) for item in subscription["items"]["data"]]
    total = sum(line["amount"] for line in lines)
    invoice = {
        "id": identifier,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Stand-in for Stripe",
        "account_tax_ids": None,
        "amount_due": total,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_remaining": total,
        "amount_shipping": 0,
        "application": None,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": advance,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "automatically_finalizes_at": None,
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "created": account.now(),
        "currency": subscription["currency"],
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
        "parent": {
            "quote_details": None,
            "subscription_details": {"metadata": subscription["metadata"], "subscription": subscription["id"]},
            "type": "subscription_details",
        },
        "payment_settings": {"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
        "period_end": past[1],
        "period_start": past[0],
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": None,
        "rendering": None,
        "shipping_cost": None,
        "shipping_details": None,
        "starting_balance": 0,
        "statement_descriptor": None,
        "status": "draft",
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "subtotal": total,
        "subtotal_excluding_tax": total,
        "test_clock": None,
        "total": total,
        "total_discount_amounts": [],
        "total_excluding_tax": total,
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "webhooks_delivered_at": None,
    }
    return events.create(account, invoice)


def finalize(account: Account, invoice: Resource) -> Resource:
    """Number the draft and ask for its payment; one over nothing is paid by that."""
    customer = account.get("customer", invoice["customer"])
    sequence = customer["next_invoice_sequence"]
    account.put({**customer, "next_invoice_sequence": sequence + 1})
    now = account.now()
    opened = {
        **invoice,
        "status": "open",
        "number": f"{customer['invoice_prefix']}-{sequence:04}",
        "effective_at": now,
        "ending_balance": 0,
        "status_transitions": {**invoice["status_transitions"], "finalized_at": now},
    }
    account.put(opened)
    events.emit(account, "invoice.finalized", opened)
    return opened if opened["total"] else mark_paid(account, opened)


def intent_of(account: Account, invoice: Resource) -> Resource:
    """The payment intent that an invoice is paid by, made at the first need."""
    payment = account.store.find("invoice_payment", _payment_id(invoice))
    if payment is not None:
        return account.get("payment_intent", payment["payment"]["payment_intent"])
    intent = payments.new_intent(
        account, invoice["customer"], invoice["total"], invoice["currency"], _PURPOSES[invoice["billing_reason"]]
    )
    account.put(
        {
            "id": _payment_id(invoice),
            "object": "invoice_payment",
            "amount_paid": None,
            "amount_requested": invoice["total"],
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
    """Nothing remains to be paid, by whatever means and so many more attempts."""
    now = account.now()
    paid = {
        "status": "paid",
        "amount_paid": invoice["total"],
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
        settled = {"status": "paid", "amount_paid": invoice["total"], "status_transitions": transitions}
        account.put({**payment, **settled})
        events.emit(account, "invoice_payment.paid", {**payment, **settled})
    invoice = events.change(account, invoice, paid)
    events.emit(account, "invoice.paid", invoice)
    events.emit(account, "invoice.payment_succeeded", invoice)
    return invoice


def void(account: Account, invoice: Resource) -> Resource:
    """Nobody owes this any more."""
    voided = {
        **invoice,
        "status": "void",
        "auto_advance": False,
        "next_payment_attempt": None,
        "status_transitions": {**invoice["status_transitions"], "voided_at": account.now()},
    }
    account.put(voided)
    events.emit(account, "invoice.voided", voided)
    return voided


def payments_of(account: Account, invoice: Resource) -> Resource:
    """The list that `expand[]=payments` shows."""
    payment = account.store.find("invoice_payment", _payment_id(invoice))
    return list_object([payment] if payment else [], f"/v1/invoice_payments?invoice={invoice['id']}")


def list_payments(account: Account, params: Params) -> Resource:
    """The payments of one invoice."""
    listed = payments_of(account, account.get("invoice", params.required("invoice"), "invoice"))
    return page_of(params, listed["data"], lambda _: True, listed["url"])


def retrieve(account: Account, _params: Params, invoice_id: str) -> Resource:
    """One invoice."""
    return account.get("invoice", invoice_id)


def list_invoices(account: Account, params: Params) -> Resource:
    """Invoices, the last first."""
    customer, subscription = params.text("customer"), params.text("subscription")
    status = params.choice("status", "draft", "open", "paid", "uncollectible", "void")
    created = params.within("created")

    def wanted(invoice: Resource) -> bool:
        return (
            customer in {None, invoice["customer"]}
            and subscription in {None, subscription_of(invoice)}
            and status in {None, invoice["status"]}
            and created(invoice["created"])
        )

    return page(account, params, "invoice", wanted, "/v1/invoices")


def list_lines(account: Account, params: Params, invoice_id: str) -> Resource:
    """What an invoice is made up of."""
    lines = account.get("invoice", invoice_id)["lines"]
    return page_of(params, lines["data"], lambda _: True, lines["url"])


def _payment_id(invoice: Resource) -> str:
    # Derived, so that the one payment of an invoice is found without a search.
    return f"inpay_{invoice['id'].removeprefix('in_')}"


def _line(account: Account, invoice_id: str, subscription: Resource, item: Resource) -> Resource:
    price, quantity = item["price"], item["quantity"]
    start, end = period_of(subscription)
    trial = subscription["status"] == "trialing"
    amount = 0 if trial else prices.amount(price, quantity)
    name = account.get("product", price["product"])["name"]
    return {
        "id": new_id("il"),
        "object": "line_item",
        "amount": amount,
        "currency": price["currency"],
        "description": f"Trial period for {name}" if trial else f"{quantity} x {name}",
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice_id,
        "livemode": False,
        "metadata": subscription["metadata"],
        "parent": {
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": False,
                "proration_details": {"credited_items": None},
                "subscription": subscription["id"],
                "subscription_item": item["id"],
            },
            "type": "subscription_item_details",
        },
        "period": {"end": end, "start": start},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": "0" if trial else price["unit_amount_decimal"],
        },
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "subscription": subscription["id"],
        "subtotal": amount,
        "taxes": [],
    }


ENDPOINTS = [
    ("GET", "/v1/invoice_payments", list_payments),
    ("GET", "/v1/invoices", list_invoices),
    ("GET", "/v1/invoices/{id}", retrieve),
    ("GET", "/v1/invoices/{id}/lines", list_lines),
]
