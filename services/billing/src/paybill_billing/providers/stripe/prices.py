"""Prices of our plans at Stripe: found by their lookup key, and created before the first purchase."""

from typing import TYPE_CHECKING

import stripe
from paybill_contracts.catalogue import OveragePrice, PlanVersion, Price

from paybill_billing.catalogue.domain.catalogue import lookup_key
from paybill_billing.providers.port import MeteredPrice, ProviderRefusedError
from paybill_billing.providers.stripe.client import MissingError, stripe_errors
from paybill_billing.providers.stripe.mappers import OVERAGE, PLAN, VERSION, Json
from paybill_billing.providers.stripe.meters import StripeMeters

if TYPE_CHECKING:  # this parameter type takes 1 MB
    from stripe.params import PriceCreateParams


class StripePrices:
    """Prices of one Stripe account. provider: its name in plans.yaml."""

    def __init__(self, client: stripe.StripeClient, provider: str, meters: StripeMeters) -> None:
        self._client = client
        self._provider = provider
        self._meters = meters
        self._known: dict[str, str] = {}

    async def id_of(self, product: str, plan: PlanVersion, price: Price) -> str:
        """Returns the id of a price of this plan. Raises ProviderRefusedError when its amount at Stripe differs."""
        name = lookup_key(plan, price)
        known = price.provider_prices.get(self._provider) or self._known.get(name)
        if known is None:
            known = self._known[name] = await self._find(name, price) or await self._create(product, plan, price)
        return known

    async def id_of_metered(self, product: str, plan: PlanVersion, metered: MeteredPrice) -> str:
        """Returns the id of an overage price of this plan. Raises ProviderRefusedError when it differs at Stripe."""
        price = metered.price
        name = lookup_key(plan, price)
        known = price.provider_prices.get(self._provider) or self._known.get(name)
        if known is None:
            meter = await self._meters.id_of(metered.meter)
            known = await self._find(name, price, meter) or await self._create(product, plan, price, meter)
            self._known[name] = known
        return known

    def sells(self, price: Json, plan: PlanVersion) -> bool:
        """Returns True for a Stripe price of this plan."""
        metadata = price.get("metadata") or {}
        return (
            price.get("id") in {ours.provider_prices.get(self._provider) for ours in plan.prices}
            or (metadata.get(PLAN), metadata.get(VERSION)) == (plan.plan, str(plan.version))
            or price.get("lookup_key") in {lookup_key(plan, ours) for ours in plan.prices}
        )

    def is_overage(self, price: Json, plan: PlanVersion | None) -> bool:
        """Returns True for an overage price that we created, or that the plan names."""
        ours = plan.overage if plan is not None else ()
        return OVERAGE in (price.get("metadata") or {}) or price.get("id") in {
            each.provider_prices.get(self._provider) for each in ours
        }

    async def _find(self, name: str, price: Price | OveragePrice, meter: str | None = None) -> str | None:
        page = await self._client.v1.prices.list_async({"lookup_keys": [name], "active": True, "limit": 1})
        for found in page.data:
            units = found.transform_quantity.divide_by if found.transform_quantity is not None else 1
            at_stripe = (found.unit_amount, found.currency.upper(), units)
            if at_stripe != (price.amount.minor, price.amount.currency, _units(price)):
                raise ProviderRefusedError(
                    f"price {found.id} has the lookup key {name} and an amount other than the plan's"
                )
            if meter is not None and (found.recurring is None or found.recurring.meter != meter):
                raise ProviderRefusedError(f"price {found.id} has the lookup key {name} and another meter")
            return found.id
        return None

    async def _create(
        self, product: str, plan: PlanVersion, price: Price | OveragePrice, meter: str | None = None
    ) -> str:
        """Creates a price. meter: of usage, None for a price with a quantity."""
        name = lookup_key(plan, price)
        params: PriceCreateParams = {
            "currency": price.amount.currency.lower(),
            "unit_amount": price.amount.minor,
            "recurring": {"interval": price.interval.value},
            "lookup_key": name,
        }
        if isinstance(price, OveragePrice) and meter is not None:
            # A product of its own, so that the line of an invoice has the name of the feature.
            params["product"] = await self._product(f"{product}_{plan.plan}_{price.feature}", plan, price.feature)
            params["recurring"] = {"interval": price.interval.value, "usage_type": "metered", "meter": meter}
            params["metadata"] = {OVERAGE: name}
            if price.units > 1:
                params["transform_quantity"] = {"divide_by": price.units, "round": "up"}
        else:
            params["product"] = await self._product(f"{product}_{plan.plan}", plan)
            params["metadata"] = {PLAN: plan.plan, VERSION: str(plan.version)}
        made = await self._client.v1.prices.create_async(params, {"idempotency_key": f"price/{name}"})
        return made.id

    async def _product(self, id_: str, plan: PlanVersion, feature: str = "") -> str:
        products = self._client.v1.products
        try:
            with stripe_errors():
                return (await products.retrieve_async(id_)).id
        except MissingError:
            made = await products.create_async(
                {"id": id_, "name": f"{plan.name} {feature}".strip(), "metadata": {PLAN: plan.plan}},
                {"idempotency_key": f"product/{id_}"},
            )
            return made.id


def _units(price: Price | OveragePrice) -> int:
    return price.units if isinstance(price, OveragePrice) else 1
