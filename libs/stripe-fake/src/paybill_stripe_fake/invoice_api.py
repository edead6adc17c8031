"""The API of invoices: create, change, list and finalise."""

from paybill_stripe_fake import events, invoice_items, invoices
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page, page_of
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import existing_customer, subscription_of

_DAY_S = 86_400
_MAX_DAYS = 365


def create(account: Account, params: Params) -> Resource:
    """Drafts an invoice without a subscription."""
    customer = existing_customer(account, params.required("customer"), "customer")
    method = params.choice("collection_method", "charge_automatically", "send_invoice") or "charge_automatically"
    days = params.integer("days_until_due", most=_MAX_DAYS)
    if (method == "send_invoice") != (days is not None):
        raise InvalidRequestError(
            "days_until_due requires collection_method=send_invoice, and the other way round.", param="days_until_due"
        )
    behaviour = params.choice("pending_invoice_items_behavior", "include", "exclude") or "exclude"
    more = {
        "auto_advance": params.flag("auto_advance") or False,
        "collection_method": method,
        "description": params.text("description"),
        "due_date": None if days is None else account.now() + days * _DAY_S,
        "metadata": params.metadata(),
    }
    currency = (params.text("currency") or customer["currency"] or "usd").lower()
    return invoices.draft_manually(account, customer["id"], currency, include_pending=behaviour == "include", more=more)


def update(account: Account, params: Params, invoice_id: str) -> Resource:
    """Changes description, metadata or `auto_advance`."""
    invoice = account.get("invoice", invoice_id)
    changes: Resource = {"metadata": params.metadata(invoice["metadata"])}
    if params.has("description"):
        changes["description"] = params.text("description")
    if (advance := params.flag("auto_advance")) is not None:
        changes["auto_advance"] = advance
    return events.change(account, invoice, changes)


def delete(account: Account, _params: Params, invoice_id: str) -> Resource:
    """Deletes a draft; its items are pending again."""
    invoice = _in(account, invoice_id, "deleted", "draft")
    if subscription_of(invoice):
        raise InvalidRequestError("An invoice of a subscription cannot be deleted.", code="invoice_not_editable")
    invoice_items.release(account, invoice_id)
    events.emit(account, "invoice.deleted", invoice)
    account.store.delete("invoice", invoice_id)
    return {"id": invoice_id, "object": "invoice", "deleted": True}


def finalize(account: Account, params: Params, invoice_id: str) -> Resource:
    """Finalises a draft; only `pay` collects it at once."""
    advance = params.flag("auto_advance")
    invoice = _in(account, invoice_id, "finalized", "draft")
    return invoices.finalize(account, invoice if advance is None else {**invoice, "auto_advance": advance})


def send(account: Account, _params: Params, invoice_id: str) -> Resource:
    """Marks an invoice as sent to the customer; nothing is sent."""
    invoice = _in(account, invoice_id, "sent", "draft", "open")
    if invoice["status"] == "draft":
        invoice = invoices.finalize(account, invoice)
    events.emit(account, "invoice.sent", invoice)
    return invoice


def void(account: Account, _params: Params, invoice_id: str) -> Resource:
    """Voids an invoice; it is no longer owed."""
    return invoices.void(account, _in(account, invoice_id, "voided", "open", "uncollectible"))


def mark_uncollectible(account: Account, _params: Params, invoice_id: str) -> Resource:
    """Marks an invoice as uncollectible."""
    return invoices.mark_uncollectible(account, _in(account, invoice_id, "marked uncollectible", "open"))


def list_payments(account: Account, params: Params) -> Resource:
    """Lists payments of invoices, newest first; filtered by invoice or payment intent."""
    invoice, status = params.text("invoice"), params.choice("status", "canceled", "open", "paid")
    created, payment = params.within("created"), params.nested("payment") or Params({}, "payment")
    if invoice:
        account.get("invoice", invoice, "invoice")
    if payment.names():
        payment.required("type")
        payment.choice("type", "payment_intent")
    intent = payment.text("payment_intent")

    def matches(payment_of: Resource) -> bool:
        return (
            invoice in {None, payment_of["invoice"]}
            and status in {None, payment_of["status"]}
            and intent in {None, payment_of["payment"]["payment_intent"]}
            and created(payment_of["created"])
        )

    return page(account, params, "invoice_payment", matches, "/v1/invoice_payments")


def retrieve_payment(account: Account, _params: Params, payment_id: str) -> Resource:
    """Returns one payment of an invoice."""
    return account.get("invoice_payment", payment_id)


def retrieve(account: Account, _params: Params, invoice_id: str) -> Resource:
    """Returns one invoice."""
    return account.get("invoice", invoice_id)


def list_invoices(account: Account, params: Params) -> Resource:
    """Lists invoices, newest first."""
    customer, subscription = params.text("customer"), params.text("subscription")
    status = params.choice("status", "draft", "open", "paid", "uncollectible", "void")
    created = params.within("created")

    def matches(invoice: Resource) -> bool:
        return (
            customer in {None, invoice["customer"]}
            and subscription in {None, subscription_of(invoice)}
            and status in {None, invoice["status"]}
            and created(invoice["created"])
        )

    return page(account, params, "invoice", matches, "/v1/invoices")


def list_lines(account: Account, params: Params, invoice_id: str) -> Resource:
    """Lists the lines of an invoice."""
    lines = account.get("invoice", invoice_id)["lines"]
    return page_of(params, lines["data"], lambda _: True, lines["url"])


def _in(account: Account, invoice_id: str, done: str, *statuses: str) -> Resource:
    invoice = account.get("invoice", invoice_id)
    if invoice["status"] not in statuses:
        raise InvalidRequestError(
            f"This invoice is {invoice['status']} and can't be {done}.", code="invoice_not_editable"
        )
    return invoice


ENDPOINTS = [
    ("GET", "/v1/invoice_payments", list_payments),
    ("GET", "/v1/invoice_payments/{id}", retrieve_payment),
    ("GET", "/v1/invoices", list_invoices),
    ("POST", "/v1/invoices", create),
    ("GET", "/v1/invoices/{id}", retrieve),
    ("POST", "/v1/invoices/{id}", update),
    ("DELETE", "/v1/invoices/{id}", delete),
    ("POST", "/v1/invoices/{id}/finalize", finalize),
    ("GET", "/v1/invoices/{id}/lines", list_lines),
    ("POST", "/v1/invoices/{id}/mark_uncollectible", mark_uncollectible),
    ("POST", "/v1/invoices/{id}/send", send),
    ("POST", "/v1/invoices/{id}/void", void),
]
