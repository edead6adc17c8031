"""Invoice items: pending charges and credits for a customer's next invoice, prorations included."""

from paybill_stripe_fake import events, prices
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.invoice_lines import per_unit, pricing_of
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import existing_customer

_MAX_QUANTITY = 1_000_000


def add(
    account: Account,
    customer_id: str,
    amount: int,
    currency: str,
    description: str | None,
    *,
    period: tuple[int, int],
    price: Resource | None = None,
    quantity: int = 1,
    subscription: str | None = None,
    subscription_item: str | None = None,
    proration: bool = False,
    metadata: dict[str, str] | None = None,
    invoice: str | None = None,
) -> Resource:
    """Adds an item to the customer's next invoice, or to the draft with the id `invoice`."""
    of_subscription = {"subscription": subscription, "subscription_item": subscription_item}
    unit_amount = per_unit(amount, quantity)
    item: Resource = {
        "id": new_id("ii"),
        "object": "invoiceitem",
        "amount": amount,
        "currency": currency,
        "customer": customer_id,
        "customer_account": None,
        "date": account.now(),
        "description": description,
        "discountable": not proration,
        "discounts": [],
        "invoice": invoice,
        "livemode": False,
        "metadata": metadata or {},
        "net_amount": amount,
        "parent": subscription and {"subscription_details": of_subscription, "type": "subscription_details"},
        "period": {"end": period[1], "start": period[0]},
        "pricing": pricing_of(price, unit_amount)
        if price
        else {"price_details": None, "type": "price_details", "unit_amount_decimal": unit_amount},
        "proration": proration,
        "proration_details": {"credited_items": None, "discount_amounts": []} if proration else None,
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "tax_rates": [],
        "test_clock": None,
    }
    account.store.put("waiting", item["id"], {"id": item["id"]})
    return events.create(account, item)


def pending_for(account: Account, customer_id: str, subscription_id: str | None) -> list[Resource]:
    """Returns the items for a customer's next invoice: the subscription's own, and those of no subscription."""
    return [
        item
        for item in _pending(account)
        if item["invoice"] is None
        and item["customer"] == customer_id
        and subscription_of(item) in {None, subscription_id}
    ]


def added_to(account: Account, invoice_id: str) -> list[Resource]:
    """Returns the items added to a draft explicitly that are not among its lines yet."""
    return [item for item in _pending(account) if item["invoice"] == invoice_id]


def bill(account: Account, item: Resource, invoice_id: str) -> None:
    """Marks an item as billed on this invoice."""
    account.put({**item, "invoice": invoice_id})
    account.store.delete("waiting", item["id"])


def release(account: Account, invoice_id: str) -> None:
    """Makes the items of a deleted draft pending again."""
    for item in account.store.oldest_first("invoiceitem"):
        if item["invoice"] == invoice_id:
            account.put({**item, "invoice": None})
            account.store.put("waiting", item["id"], {"id": item["id"]})


def subscription_of(item: Resource) -> str | None:
    """Returns the id of the subscription that an item is billed with, or None."""
    return item["parent"]["subscription_details"]["subscription"] if item["parent"] else None


def remove_prorations(account: Account, subscription_id: str) -> None:
    """Deletes the unbilled prorations of a subscription."""
    for item in _pending(account):
        if item["proration"] and subscription_of(item) == subscription_id:
            _remove(account, item)


def create(account: Account, params: Params) -> Resource:
    """Adds an item to the customer's next invoice, or to a draft."""
    customer = existing_customer(account, params.required("customer"), "customer")
    quantity = params.integer("quantity", most=_MAX_QUANTITY)
    price, amount, currency = _charged(account, params, quantity)
    subscription, invoice = params.text("subscription"), params.text("invoice")
    if subscription:
        account.get("subscription", subscription, "subscription")
    if invoice and account.get("invoice", invoice, "invoice")["status"] != "draft":
        raise InvalidRequestError(
            "You can only add items to draft invoices.", code="invoice_not_editable", param="invoice"
        )
    now = account.now()
    period = params.nested("period")
    start, end = (period.integer("start"), period.integer("end")) if period else (None, None)
    return add(
        account,
        customer["id"],
        amount,
        currency,
        params.text("description"),
        period=(start or now, end or now),
        price=price,
        quantity=1 if quantity is None else quantity,
        subscription=subscription,
        metadata=params.metadata(),
        invoice=invoice,
    )


def retrieve(account: Account, _params: Params, item_id: str) -> Resource:
    """Returns one invoice item."""
    return account.get("invoiceitem", item_id)


def list_items(account: Account, params: Params) -> Resource:
    """Lists invoice items, newest first."""
    exact = {"customer": params.text("customer"), "invoice": params.text("invoice")}
    pending, created = params.flag("pending"), params.within("created")

    def matches(item: Resource) -> bool:
        return (
            all(value in {None, item[key]} for key, value in exact.items())
            and pending in {None, item["invoice"] is None}
            and created(item["date"])
        )

    return page(account, params, "invoiceitem", matches, "/v1/invoiceitems")


def update(account: Account, params: Params, item_id: str) -> Resource:
    """Changes description or metadata; emits no event, as at Stripe."""
    item = account.get("invoiceitem", item_id)
    changes: Resource = {"metadata": params.metadata(item["metadata"])}
    if params.has("description"):
        changes["description"] = params.text("description")
    return account.put({**item, **changes})


def delete(account: Account, _params: Params, item_id: str) -> Resource:
    """Deletes an item that was not billed yet."""
    item = account.get("invoiceitem", item_id)
    if account.store.find("waiting", item_id) is None:
        raise InvalidRequestError(
            "This invoice item is on an invoice and cannot be deleted.", code="invoice_not_editable"
        )
    return _remove(account, item)


def _pending(account: Account) -> list[Resource]:
    return [account.get("invoiceitem", marker["id"]) for marker in account.store.oldest_first("waiting")]


def _remove(account: Account, item: Resource) -> Resource:
    events.emit(account, "invoiceitem.deleted", item)
    account.store.delete("invoiceitem", item["id"])
    account.store.delete("waiting", item["id"])
    return {"id": item["id"], "object": "invoiceitem", "deleted": True}


def _charged(account: Account, params: Params, quantity: int | None) -> tuple[Resource | None, int, str]:
    pricing, amount = params.nested("pricing"), params.integer("amount", least=-prices.MAX_AMOUNT)
    if pricing is not None:
        price = account.get("price", pricing.required("price"), pricing.name("price"))
        return price, prices.amount(price, 1 if quantity is None else quantity), price["currency"]
    if amount is None:
        raise InvalidRequestError(
            "One of amount and pricing[price] is required.", code="parameter_missing", param="amount"
        )
    return None, amount, params.required("currency").lower()


ENDPOINTS = [
    ("POST", "/v1/invoiceitems", create),
    ("GET", "/v1/invoiceitems", list_items),
    ("GET", "/v1/invoiceitems/{id}", retrieve),
    ("POST", "/v1/invoiceitems/{id}", update),
    ("DELETE", "/v1/invoiceitems/{id}", delete),
]
