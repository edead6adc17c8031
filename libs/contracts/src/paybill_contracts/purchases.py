"""Terms of a first purchase, and the prices of plans from which a sign-up may choose."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.catalogue import Interval, OveragePrice, Price
from paybill_contracts.event import Value
from paybill_contracts.money import Money
from paybill_contracts.values import Count, Key

MAX_QUANTITY = 1_000_000
"""The largest quantity of a first purchase; a larger one is a typing error."""

Quantity = Annotated[int, Field(ge=1, le=MAX_QUANTITY, description="Seats.", examples=[5])]
Currency = Annotated[
    str, StringConstraints(pattern=r"^[A-Z]{3}$"), Field(description="A currency of ISO 4217.", examples=["EUR"])
]
Coupon = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,100}$"), Field(examples=["SPRING20"])]
"""A promotion code or the id of a coupon at the provider."""


class PurchaseTerms(Value):
    """Terms of the purchase of a plan. interval, currency: None for those of the plan's first price that fits."""

    interval: Interval | None = None
    currency: Currency | None = None
    quantity: Quantity = 1
    coupon: Coupon | None = None


FIRST_PRICE = PurchaseTerms()
"""One unit at the plan's first price."""


class PlanPrices(Value):
    """The prices of a plan's newest version on sale. trial_days: 0 for none. overage: empty in older facts."""

    plan: Key
    trial_days: Count
    prices: tuple[Price, ...]
    overage: Annotated[tuple[OveragePrice, ...], Field(exclude_if=lambda prices: not prices)] = ()


def price_for(prices: Iterable[Price], terms: PurchaseTerms) -> Price | None:
    """Returns the first price with the interval and the currency of `terms`; None without one."""
    for price in prices:
        if terms.interval in {None, price.interval} and terms.currency in {None, price.amount.currency}:
            return price
    return None


def named_prices(prices: Iterable[Price]) -> str:
    """Returns the prices for people: `29.00 EUR per month, 290.00 EUR per year`."""
    return ", ".join(f"{price.amount.text} per {price.interval}" for price in prices) or "none"


def total_of(price: Price, quantity: int) -> Money:
    """Returns what a whole period costs without a discount."""
    return Money(minor=price.amount.minor * quantity, currency=price.amount.currency)
