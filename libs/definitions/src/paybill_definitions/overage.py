"""Overage prices in plans.yaml: usage of a metered feature beyond its included amount."""

from collections.abc import Collection, Iterable, Iterator
from typing import Annotated

from paybill_contracts.catalogue import Interval, OveragePrice
from paybill_contracts.money import Money
from paybill_contracts.values import Key, ProviderId
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from paybill_definitions.price_rules import objection

SoldPeriod = tuple[str, Interval]
"""Currency and interval of a price of the plan."""


class OverageInput(BaseModel):
    """`minor` is the price of `per` units, in minor units."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minor: Annotated[int, Field(strict=True, ge=1, le=10**15)]
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    interval: Interval
    per: Annotated[int, Field(strict=True, ge=1, le=10**9)] = 1
    provider_prices: dict[Key, ProviderId] = {}

    def price_of(self, feature: str) -> OveragePrice:
        """Returns the price in the catalogue's form."""
        return OveragePrice(
            feature=feature,
            amount=Money(minor=self.minor, currency=self.currency),
            interval=self.interval,
            units=self.per,
            provider_prices=self.provider_prices,
        )


def errors(
    feature: str, overage: Iterable[OverageInput], sold: Collection[SoldPeriod], providers: Collection[str]
) -> Iterator[str]:
    """Yields the reasons why a feature's overage prices cannot be sold.

    sold: the plan's prices; each is sold with the overage price of its currency and interval. providers: those that
    have the feature's meter.
    """
    found: set[SoldPeriod] = set()
    for price in overage:
        period = (price.currency, price.interval)
        name = f"{price.interval}ly overage price in {price.currency} of {feature}"
        if period in found:
            yield f"the {name} is written twice"
        elif period not in sold:
            yield f"the {name} is never sold: the plan has no such price"
        found.add(period)
        reason = objection(Money(minor=price.minor, currency=price.currency), price.provider_prices, is_charge=False)
        if reason is not None:
            yield reason
        for provider in price.provider_prices.keys() - set(providers):
            yield f"the meter of {feature} has no provider_meters for {provider}: its usage is not reported there"
    if not found:
        return
    for currency, interval in sorted(set(sold) - found):
        yield f"{feature} has an overage price, but none in {currency} per {interval}, which the plan sells"
    if not providers:
        yield f"the meter of {feature} has no provider_meters: its usage would not be billed"
