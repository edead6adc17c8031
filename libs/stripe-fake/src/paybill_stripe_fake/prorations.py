"""Prorations of a change within a period: credit for unused time of the old items, charge for the new ones."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

from paybill_stripe_fake import invoice_items, prices
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import period_of, subscription_of

BEHAVIOURS = ("create_prorations", "always_invoice", "none")


@dataclass(frozen=True, slots=True)
class Prorating:
    """Proration of a change: Stripe's `proration_behavior`, and the time from which it counts."""

    behaviour: str
    at: int


def read(account: Account, params: Params, subscription: Resource) -> Prorating:
    """Returns `proration_behavior` and `proration_date`, which lies in the current period."""
    behaviour = params.choice("proration_behavior", *BEHAVIOURS) or "create_prorations"
    at = params.integer("proration_date")
    start, end = period_of(subscription)
    if at is not None and not start <= at <= end:
        raise InvalidRequestError(
            f"Invalid proration_date: must be within the current period ({start} to {end}).",
            param=params.name("proration_date"),
        )
    return Prorating(behaviour, account.now() if at is None else at)


def charge(
    account: Account,
    subscription: Resource,
    after: list[Resource],
    at: int,
    *,
    period: tuple[int, int] | None = None,
) -> None:
    """Adds the difference between a subscription's old and new items to the next invoice.

    subscription: before the change. after: the items from `at` on; an empty list credits all that was paid.
    """
    before = {item["id"]: item for item in subscription["items"]["data"]}
    changed = {item["id"]: item for item in after}
    start, end = period or period_of(subscription)
    for identifier in before | changed:
        old, new = before.get(identifier), changed.get(identifier)
        if old and new and (old["price"]["id"], old.get("quantity")) == (new["price"]["id"], new.get("quantity")):
            continue
        for item, sign, words in ((old, -1, "Unused time on"), (new, 1, "Remaining time on")):
            if item is not None and item.get("quantity"):
                _add(account, subscription, item, sign, words, part=(at, start, end))


def _add(
    account: Account, subscription: Resource, item: Resource, sign: int, words: str, *, part: tuple[int, int, int]
) -> None:
    at, start, end = part
    price, quantity = item["price"], item["quantity"]
    exact = Decimal(prices.amount(price, quantity)) * (end - at) / max(end - start, 1)
    if sign < 0:
        exact *= _charged_part(account, subscription, item, end)
    name = account.get("product", price["product"])["name"]
    day = datetime.fromtimestamp(at, tz=UTC).strftime("%d %b %Y").lstrip("0")
    invoice_items.add(
        account,
        subscription["customer"],
        sign * int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP)),
        price["currency"],
        f"{words} {quantity} x {name} after {day}",
        period=(at, end),
        price=price,
        quantity=quantity,
        subscription=subscription["id"],
        subscription_item=item["id"],
        proration=True,
    )


def _charged_part(account: Account, subscription: Resource, item: Resource, end: int) -> Decimal:
    """Returns the part of the item's price that the last charge for this period left of it, after its discounts.

    Stripe credits what it charged (https://docs.stripe.com/billing/subscriptions/billing-mode/compare), and the
    discounts are in the amount of the credit (https://docs.stripe.com/billing/subscriptions/prorations).
    """
    lines = (
        line
        for invoice in account.store.newest_first("invoice")
        if subscription_of(invoice) == subscription["id"]
        for line in reversed(invoice["lines"]["data"])
    )
    for line in lines:
        of_item = (line["parent"] or {}).get("subscription_item_details")
        if (
            of_item
            and of_item["subscription_item"] == item["id"]
            and line["period"]["end"] == end
            and line["amount"] > 0
        ):
            off = sum(each["amount"] for each in line["discount_amounts"])
            return 1 - Decimal(off) / Decimal(line["amount"])
    return Decimal(1)
