"""Prices of our plans at Stripe: found by their lookup key, and created before the first purchase."""

import stripe
from paybill_contracts.catalogue import PlanVersion, Price

from paybill_billing.catalogue.domain.catalogue import lookup_key
from paybill_billing.providers.port import ProviderRefusedError
from paybill_billing.providers.stripe.client import MissingError, stripe_errors
from paybill_billing.providers.stripe.mappers import PLAN, VERSION, Json


class StripePrices:
    """Prices of one Stripe account. provider: its name in plans.yaml."""

    def __init__(self, client: stripe.StripeClient, provider: str) -> None:
        self._client = client
        self._provider = provider
        self._known: dict[str, str] = {}

    async def id_of(self, product: str, plan: PlanVersion, price: Price) -> str:
        """Returns the id of a price of this plan. Raises ProviderRefusedError when its amount at Stripe differs."""
        name = lookup_key(plan, price)
        known = price.provider_prices.get(self._provider) or self._known.get(name)
        if known is None:
            known = self._known[name] = await self._find(name, price) or await self._create(product, plan, price)
        return known

    def sells(self, price: Json, plan: PlanVersion) -> bool:
        """Returns True for a Stripe price of this plan."""
        metadata = price.get("metadata") or {}
        return (
            price.get("id") in {ours.provider_prices.get(self._provider) for ours in plan.prices}
            or (metadata.get(PLAN), metadata.get(VERSION)) == (plan.plan, str(plan.version))
            or price.get("lookup_key") in {lookup_key(plan, ours) for ours in plan.prices}
        )

    async def _find(self, name: str, price: Price) -> str | None:
        page = await self._client.v1.prices.list_async({"lookup_keys": [name], "active": True, "limit": 1})
        for found in page.data:
            if (found.unit_amount, found.currency.upper()) != (price.amount.minor, price.amount.currency):
                raise ProviderRefusedError(
                    f"price {found.id} has the lookup key {name} and an amount other than the plan's"
                )
            return found.id
        return None

    async def _create(self, product: str, plan: PlanVersion, price: Price) -> str:
        name = lookup_key(plan, price)
        made = await self._client.v1.prices.create_async(
            {
                "product": await self._product(f"{product}_{plan.plan}", plan),
                "currency": price.amount.currency.lower(),
                "unit_amount": price.amount.minor,
                "recurring": {"interval": price.interval.value},
                "lookup_key": name,
                "metadata": {PLAN: plan.plan, VERSION: str(plan.version)},
            },
            {"idempotency_key": f"price/{name}"},
        )
        return made.id

    async def _product(self, id_: str, plan: PlanVersion) -> str:
        products = self._client.v1.products
        try:
            with stripe_errors():
                return (await products.retrieve_async(id_)).id
        except MissingError:
            made = await products.create_async(
                {"id": id_, "name": plan.name, "metadata": {PLAN: plan.plan}}, {"idempotency_key": f"product/{id_}"}
            )
            return made.id
