"""Rules for amounts: what ISO 4217 and Stripe accept, so that a wrong price does not fail at the first customer.

Source: https://docs.stripe.com/currencies (minimum amounts, three-decimal currencies, special cases).
"""

from collections.abc import Mapping

from paybill_contracts.charges import STRIPE, excess, largest_charge
from paybill_contracts.money import Money, is_currency, minor_digits

_MINIMUM = {
    "AED": 200,
    "AUD": 50,
    "BGN": 100,
    "BRL": 50,
    "CAD": 50,
    "CHF": 50,
    "CZK": 1500,
    "DKK": 250,
    "EUR": 50,
    "GBP": 30,
    "HKD": 400,
    "HUF": 17_500,
    "INR": 50,
    "JPY": 50,
    "MXN": 1000,
    "MYR": 200,
    "NOK": 300,
    "NZD": 50,
    "PLN": 200,
    "RON": 200,
    "SEK": 300,
    "SGD": 50,
    "THB": 1000,
    "USD": 50,
}
"""The least charge in minor units; a price of 0 is not charged."""
_IN_HUNDREDTHS = frozenset({"ISK", "UGX"})
_FUNDS = frozenset({"BOV", "CHE", "CHW", "CLF", "COU", "MXV", "USN", "UYI", "UYW"})
"""Codes of ISO 4217 for funds and units of account, in which nobody pays."""
_NOT_CHARGED = frozenset({"CUP", "IRR", "KPW", "SYP", "VED", "VES"})
"""Currencies that are not among Stripe's presentment currencies; others may depend on the account's country."""
_THREE_DIGITS = 3


def objection(amount: Money, provider_prices: Mapping[str, str], *, is_charge: bool = True) -> str | None:
    """Returns why an amount cannot be sold, or None.

    provider_prices: of the price; Stripe's rules do not apply to one that names prices of other providers only.
    is_charge: False for the price of a unit of usage. Stripe's minimum is for a charge, which has many of them.
    """
    currency, minor = amount.currency, amount.minor
    if not is_currency(currency):
        return f"{currency} is no currency of ISO 4217"
    if provider_prices and STRIPE not in provider_prices:
        return None
    if currency in _FUNDS | _NOT_CHARGED:
        return f"Stripe does not charge {currency}: use another currency"
    if currency in _IN_HUNDREDTHS:
        return f"Stripe counts {currency} in hundredths, unlike ISO 4217: use another currency"
    if minor_digits(currency) == _THREE_DIGITS and minor % 10:
        nearest = Money(minor=round(minor, -1), currency=currency)
        return f"Stripe charges {currency} in steps of ten minor units: write {nearest.minor} ({nearest.text})"
    if (reason := excess(amount)) is not None:
        return f"{reason}: write at most {largest_charge(currency).minor}"
    least = _MINIMUM.get(currency, 0)
    if is_charge and 0 < minor < least:
        minimum = Money(minor=least, currency=currency)
        return f"{amount.text} is below Stripe's minimum charge of {minimum.text}: write at least {least}, or 0"
    return None
