"""Amounts of money in whole minor units of a currency."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from paybill_contracts.errors import DomainError


class CurrencyMismatchError(DomainError):
    """Amounts of two currencies cannot be added."""

    code = "currency_mismatch"


class Money(BaseModel):
    """An amount in minor units (cents for EUR, yen for JPY) of an ISO 4217 currency; may be negative (a credit)."""

    model_config = ConfigDict(frozen=True, strict=True)

    minor: Annotated[int, Field(ge=-(10**15), le=10**15, examples=[2500])]
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$"), Field(examples=["EUR"])]

    def __add__(self, other: Self) -> "Money":
        """Returns the sum. Raises CurrencyMismatchError for different currencies."""
        if self.currency != other.currency:
            raise CurrencyMismatchError(f"cannot add {other.currency} to {self.currency}; convert one of them first")
        return Money(minor=self.minor + other.minor, currency=self.currency)
