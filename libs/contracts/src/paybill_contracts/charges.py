"""Largest amounts that Stripe charges.

Source: https://docs.stripe.com/currencies (maximum amounts: eight digits of the smallest unit, IDR twelve).
"""

from paybill_contracts.money import Money

STRIPE = "stripe"
"""Name of the billing provider to whose charges the limit applies."""
_MOST = 99_999_999
_MOST_OF = {"IDR": 999_999_999_999}


def largest_charge(currency: str) -> Money:
    """Returns the largest amount of a charge in this currency."""
    return Money(minor=_MOST_OF.get(currency, _MOST), currency=currency)


def excess(amount: Money, quantity: int = 1) -> str | None:
    """Returns why this quantity at this price cannot be charged at once, or None."""
    largest, total = largest_charge(amount.currency), amount.minor * quantity
    if total <= largest.minor:
        return None
    what = amount.text if quantity == 1 else f"{quantity} at {amount.text}"
    return f"{what} is above Stripe's maximum charge of {largest.text}"
