"""Amounts of money in whole minor units of a currency."""

from typing import Annotated, Self

from iso4217 import Currency
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from paybill_contracts.errors import DomainError

MAX_MINOR = 10**15
"""The largest amount, in minor units."""

_DIGITS = {currency.code: currency.exponent for currency in Currency if currency.exponent is not None}


class CurrencyMismatchError(DomainError):
    """Amounts of two currencies cannot be added."""

    code = "currency_mismatch"


class Money(BaseModel):
    """An amount in minor units (cents for EUR, yen for JPY) of an ISO 4217 currency; may be negative (a credit)."""

    model_config = ConfigDict(frozen=True, strict=True)

    minor: Annotated[int, Field(ge=-MAX_MINOR, le=MAX_MINOR, examples=[2500])]
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$"), Field(examples=["EUR"])]

    @property
    def text(self) -> str:
        """The amount for people, such as `567.80 EUR`, with the digits of ISO 4217."""
        digits = minor_digits(self.currency)
        whole, rest = divmod(abs(self.minor), 10**digits)
        fraction = f".{rest:0{digits}}" if digits else ""
        return f"{'-' if self.minor < 0 else ''}{whole}{fraction} {self.currency}"

    def __add__(self, other: Self) -> "Money":
        """Returns the sum. Raises CurrencyMismatchError for different currencies."""
        if self.currency != other.currency:
            raise CurrencyMismatchError(f"cannot add {other.currency} to {self.currency}; convert one of them first")
        return Money(minor=self.minor + other.minor, currency=self.currency)


def minor_digits(currency: str) -> int:
    """Returns the digits of a currency's minor unit by ISO 4217: 2 for EUR, 0 for JPY, 3 for KWD.

    A code that is not in ISO 4217 has two, so that an old amount can still be shown.
    """
    return _DIGITS.get(currency, 2)


def is_currency(code: str) -> bool:
    """Returns True for a currency of ISO 4217, and False for metals, test codes and unknown codes."""
    return code in _DIGITS
