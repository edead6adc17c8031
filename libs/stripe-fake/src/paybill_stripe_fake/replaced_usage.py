"""Usage of metered items that are removed or get another price: billed at the old price, and never prorated."""

from paybill_stripe_fake import invoice_items, meters, prices
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.store import Resource


def bill(account: Account, subscription: Resource, after: list[Resource], period: tuple[int, int]) -> None:
    """Adds the usage of each replaced item in this period to the next invoice, as with Stripe's flexible billing mode.

    after: the items from the end of the period on. They count usage from then: a meter counts for a customer, and not
    for an item.
    """
    before = {item["id"]: item for item in subscription["items"]["data"]}
    price_after = {item["id"]: item["price"]["id"] for item in after}
    replaced = [
        item
        for id_, item in before.items()
        if prices.is_metered(item["price"]) and price_after.get(id_) != item["price"]["id"]
    ]
    for item in replaced:
        _bill(account, subscription, item, period)
    counted = {item["price"]["recurring"]["meter"] for item in replaced}
    for item in after:
        is_new = item["id"] not in before or before[item["id"]]["price"]["id"] != item["price"]["id"]
        if is_new and prices.is_metered(item["price"]) and item["price"]["recurring"]["meter"] in counted:
            account.store.put("usage_billed", item["id"], {"until": period[1]})


def _bill(account: Account, subscription: Resource, item: Resource, period: tuple[int, int]) -> None:
    price, (start, end) = item["price"], period
    if billed := account.store.find("usage_billed", item["id"]):
        start = max(start, billed["until"])
    if start >= end:
        return
    used = meters.usage(account, price["recurring"]["meter"], subscription["customer"], start, end)
    invoice_items.add(
        account,
        subscription["customer"],
        prices.amount(price, used),
        price["currency"],
        f"{used.normalize():f} x {account.get('product', price['product'])['name']}",
        period=(start, end),
        price=price,
        quantity=int(used),
        subscription=subscription["id"],
        subscription_item=item["id"],
    )
