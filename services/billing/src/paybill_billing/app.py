"""Puts the service together."""

import asyncio
from importlib.resources import files

from fastapi import APIRouter
from paybill_contracts.envelope import Origin
from paybill_contracts.plans_file import Plans, PlansError, read_plans
from paybill_runtime.app import Service
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.http import Edge
from paybill_runtime.leases import Leases
from paybill_runtime.secrets import Secrets
from paybill_runtime.unit import Moment, Unit
from paybill_runtime.work import Timer

from paybill_billing.api import router
from paybill_billing.consumer import HEARS
from paybill_billing.domain import (
    catalogue,
    entitlements,
    licence_keys,
    licences,
    publishers,
    revocations,
    subscriptions,
)
from paybill_billing.domain.catalogue import PublishedPlanEditedError
from paybill_billing.effects.signing import Outside, SigningKeys
from paybill_billing.effects.stripe import NAME, Stripe
from paybill_billing.effects.stripe_inbound import StripeInbound
from paybill_billing.settings import Settings
from paybill_billing.tables import (
    CATALOGUES,
    ENTITLEMENTS,
    KEYRINGS,
    LICENCES,
    PUBLISHERS,
    REVOCATION_LISTS,
    STATES,
    SUBSCRIPTIONS,
)
from paybill_billing.work.accounts import WORK
from paybill_billing.work.licences import request_first_key
from paybill_billing.work.webhooks import Ingest

_START = Origin("start", "start", "service:billing", "")


class AtStripe:
    """This process's one connection to Stripe: what it does there and what it looks at there share one pace."""

    def __init__(self) -> None:
        self._stripe: Stripe | None = None
        self._arrived = asyncio.Event()

    def router(self, edge: Edge) -> APIRouter:
        """The service's routes. A message that is kept is looked at without delay."""
        return router(edge, self._arrived.set)

    def connect(self, settings: Settings, secrets: Secrets) -> Outside:
        """The providers that accounts can be opened at, and the keys that sign licences."""
        self._stripe = Stripe(
            settings.stripe_api_key(),
            settings.stripe_api_base,
            settings.checkout_return_url,
            settings.stripe_requests_per_s,
        )
        return Outside({NAME: self._stripe}, SigningKeys(secrets))

    async def webhooks(self, edge: Edge, leases: Leases) -> None:
        """Understand what Stripe has sent, until the service ends; then nothing is done at Stripe either."""
        if self._stripe is None:
            raise RuntimeError("effects are built before anything runs")
        inbound = StripeInbound(edge.settings.stripe_webhook_secrets())
        try:
            await Ingest(edge, leases, NAME, self._stripe, inbound, self._arrived).run()
        finally:
            await self._stripe.close()


def service() -> Service:
    """The billing service."""
    at_stripe = AtStripe()
    return Service(
        name="billing",
        settings=Settings,
        states=STATES,
        hears=HEARS,
        work=WORK,
        timers=(
            Timer(SUBSCRIPTIONS, "due", subscriptions.on_time),
            Timer(ENTITLEMENTS, "due", entitlements.on_time),
            Timer(LICENCES, "due", licences.on_time),
            Timer(KEYRINGS, "due", licence_keys.on_time),
            Timer(REVOCATION_LISTS, "due", revocations.on_time),
        ),
        router=at_stripe.router,
        effects=at_stripe.connect,
        on_start=(publish_catalogue, allow_publishers, request_first_key),
        background=(at_stripe.webhooks,),
    )


async def publish_catalogue(edge: Edge) -> None:
    """Sell what plans.yaml says. Raises ConfigurationError, which ends the start: nothing is sold by mistake."""
    plans = _plans(edge.settings)

    def decide(unit: Unit, _: Moment) -> None:
        known = unit.get(CATALOGUES, catalogue.CATALOGUE)
        unit.record(CATALOGUES, catalogue.CATALOGUE, catalogue.publish(known, plans.content))

    try:
        await edge.decide(_START, decide, writes=[CATALOGUES.key(catalogue.CATALOGUE)])
    except PublishedPlanEditedError as error:
        line = plans.lines[f"{error.plan}@{error.version}", ""]
        raise ConfigurationError(f"{_name(edge.settings)}:{line}: {error}") from None


async def allow_publishers(edge: Edge) -> None:
    """Let those report usage whom the publishers file names."""
    grants = edge.settings.publisher_grants()

    def decide(unit: Unit, _: Moment) -> None:
        known = unit.get(PUBLISHERS, publishers.PUBLISHERS)
        unit.record(PUBLISHERS, publishers.PUBLISHERS, publishers.allow(known, grants))

    await edge.decide(_START, decide, writes=[PUBLISHERS.key(publishers.PUBLISHERS)])


def _plans(settings: Settings) -> Plans:
    path = settings.catalogue_file
    try:
        source = files("paybill_billing").joinpath("plans.yaml") if path is None else path
        return read_plans(source.read_text(encoding="utf-8"), _name(settings))
    except PlansError as error:
        raise ConfigurationError(str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the catalogue {_name(settings)} cannot be read: {error}") from None


def _name(settings: Settings) -> str:
    return str(settings.catalogue_file or "plans.yaml")
