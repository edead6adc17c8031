"""Lines of an invoice: a period of a subscription item, or an invoice item."""

from decimal import Decimal
from typing import Any

from paybill_stripe_fake import meters, prices
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import period_of


def of_item(account: Account, invoice_id: str, subscription: Resource, item: Resource) -> Resource:
    """Returns the line for the current period of a licensed item, paid in advance; free on trial."""
    price, quantity = item["price"], item["quantity"]
    start, end = period_of(subscription)
    trial = subscription["status"] == "trialing"
    amount = 0 if trial else prices.amount(price, quantity)
    name = account.get("product", price["product"])["name"]
    return {
        **_line(invoice_id, amount, price["currency"]),
        "description": f"Trial period for {name}" if trial else f"{quantity} x {name}",
        "metadata": subscription["metadata"],
        "parent": _item_parent(subscription["id"], item["id"], None),
        "period": {"end": end, "start": start},
        "pricing": pricing_of(price, "0" if trial else price["unit_amount_decimal"]),
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "subscription": subscription["id"],
    }


def of_usage(
    account: Account, invoice_id: str, subscription: Resource, item: Resource, past: tuple[int, int]
) -> Resource:
    """Returns the line for the usage of a metered item in the past period, and marks that usage as billed."""
    price = item["price"]
    billed = account.store.find("usage_billed", item["id"])
    start = max(past[0], billed["until"]) if billed else past[0]
    account.store.put("usage_billed", item["id"], {"until": past[1]})
    line = {
        **_line(invoice_id, 0, price["currency"]),
        "metadata": subscription["metadata"],
        "parent": _item_parent(subscription["id"], item["id"], None),
        "period": {"end": past[1], "start": start},
        "pricing": pricing_of(price, price["unit_amount_decimal"]),
        "subscription": subscription["id"],
    }
    return with_usage(account, subscription["customer"], line)


def with_usage(account: Account, customer: str, line: Resource) -> Resource:
    """Returns the line with the usage of its period, if its price is metered."""
    details = line["pricing"]["price_details"]
    price = account.store.find("price", details["price"]) if details else None
    of_item = line["parent"]["subscription_item_details"]
    if price is None or not prices.is_metered(price) or of_item is None or of_item["proration"]:
        return line
    start, end = line["period"]["start"], line["period"]["end"]
    used = meters.usage(account, price["recurring"]["meter"], customer, start, end)
    amount = prices.amount(price, used)
    return {
        **line,
        "amount": amount,
        "subtotal": amount,
        "description": f"{used.normalize():f} x {account.get('product', price['product'])['name']}",
        "quantity": int(used),
        "quantity_decimal": f"{used.normalize():f}",
    }


def of_invoice_item(invoice_id: str, invoice_item: Resource) -> Resource:
    """Returns the line for an invoice item, a proration or a manual one."""
    details = (invoice_item["parent"] or {}).get("subscription_details")
    of_subscription_item = details and details["subscription_item"]
    plain: Resource = {
        "invoice_item_details": {
            "invoice_item": invoice_item["id"],
            "proration": invoice_item["proration"],
            "proration_details": {"credited_items": None},
            "subscription": details and details["subscription"],
        },
        "subscription_item_details": None,
        "type": "invoice_item_details",
    }
    parent = (
        _item_parent(details["subscription"], of_subscription_item, invoice_item)
        if details and of_subscription_item
        else plain
    )
    same = ("description", "metadata", "period", "pricing", "quantity", "quantity_decimal", "discountable")
    return {
        **_line(invoice_id, invoice_item["amount"], invoice_item["currency"]),
        **{key: invoice_item[key] for key in same},
        "parent": parent,
        "subscription": details and details["subscription"],
    }


def pricing_of(price: Resource, unit_amount: str) -> Resource:
    """Returns the `pricing` of a line: its price and the amount of one unit."""
    return {
        "price_details": {"price": price["id"], "product": price["product"]},
        "type": "price_details",
        "unit_amount_decimal": unit_amount,
    }


def per_unit(amount: int, quantity: int) -> str:
    """Returns the amount of one unit, with 12 decimal places at most."""
    each = round(Decimal(amount) / quantity, 12) if quantity else Decimal(0)
    return f"{each.normalize():f}"


def _item_parent(subscription_id: str, item_id: str, invoice_item: Resource | None) -> Resource:
    return {
        "invoice_item_details": None,
        "subscription_item_details": {
            "invoice_item": invoice_item and invoice_item["id"],
            "proration": bool(invoice_item and invoice_item["proration"]),
            "proration_details": {"credited_items": None},
            "subscription": subscription_id,
            "subscription_item": item_id,
        },
        "type": "subscription_item_details",
    }


def _line(invoice_id: str, amount: int, currency: str) -> dict[str, Any]:
    return {
        "id": new_id("il"),
        "object": "line_item",
        "amount": amount,
        "currency": currency,
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice_id,
        "livemode": False,
        "pretax_credit_amounts": [],
        "subtotal": amount,
        "taxes": [],
    }
