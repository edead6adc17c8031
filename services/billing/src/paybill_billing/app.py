"""Puts the service together."""

import asyncio
from collections.abc import Mapping
from functools import partial
from importlib.resources import files

from fastapi import APIRouter
from paybill_contracts.envelope import Origin
from paybill_definitions.plans_file import Plans, PlansError, read_plans
from paybill_runtime.app import Service
from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.jobs.effects import JobRegistry, Timer
from paybill_runtime.security.secrets import Secrets
from sqlmodel import select

from paybill_billing.api import router
from paybill_billing.catalogue.domain import catalogue, tiers
from paybill_billing.catalogue.domain.catalogue import CatalogueRefusedError
from paybill_billing.catalogue.tables import CATALOGUES, TIERS, CatalogueRow
from paybill_billing.consumer import HANDLERS
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.licences import jobs as licence_jobs
from paybill_billing.licences.domain import licence_keys, licences, revocations
from paybill_billing.licences.effects import ExternalSystems, SigningKeys
from paybill_billing.licences.jobs import request_first_key
from paybill_billing.licences.tables import KEYRINGS, LICENCES, REVOCATION_LISTS
from paybill_billing.providers import domain as providers
from paybill_billing.providers.manual.domain import contracts, manual
from paybill_billing.providers.manual.tables import CONTRACTS, ManualContractTable
from paybill_billing.providers.port import Lists, ProviderConnection, Redelivers
from paybill_billing.providers.registry import connect
from paybill_billing.providers.sync_queue import enqueue_sync
from paybill_billing.providers.tables import PROVIDERS
from paybill_billing.reconciliation.jobs.redelivery import Sweeper
from paybill_billing.reconciliation.jobs.runs import Reconciler
from paybill_billing.settings import Settings
from paybill_billing.subscriptions import jobs as subscription_jobs
from paybill_billing.subscriptions.domain import changes, subscriptions
from paybill_billing.subscriptions.jobs.plan_migrations import run_plan_migrations
from paybill_billing.subscriptions.tables import CHANGES, SUBSCRIPTIONS
from paybill_billing.tables import STATES
from paybill_billing.usage import jobs as usage_jobs
from paybill_billing.usage.domain import publishers
from paybill_billing.usage.jobs import close_windows
from paybill_billing.usage.tables import PUBLISHERS
from paybill_billing.webhooks.jobs import Ingest

JOBS = JobRegistry(subscription_jobs.JOBS, usage_jobs.JOBS, licence_jobs.JOBS)
"""All effects of the service."""

_START = Origin("start", "start", "service:billing", "")


class Connections:
    """This process's one connection to each provider: what is done there and what is looked at share one pace."""

    def __init__(self) -> None:
        self._contract_store = ManualContractTable()
        self._connected: Mapping[str, ProviderConnection] = {}
        self._arrived: Mapping[str, asyncio.Event] = {}
        self._asked = asyncio.Event()

    def connect(self, settings: Settings, secrets: Secrets) -> ExternalSystems:
        """The providers that accounts can be opened at, and the keys that sign licences."""
        self._connected = connect(settings, self._contract_store)
        self._arrived = {name: asyncio.Event() for name in self._connected}
        return ExternalSystems({name: one.provider for name, one in self._connected.items()}, SigningKeys(secrets))

    async def begin(self, context: ServiceContext) -> None:
        """Say who the providers are, before anything is asked of them."""
        await self._contract_store.begin(context)
        names, default = list(self._connected), context.settings.default_provider

        def decide(unit: UnitOfWork, _: DecisionContext) -> None:
            known = unit.get(PROVIDERS, providers.PROVIDERS)
            unit.record(PROVIDERS, providers.PROVIDERS, providers.configure(known, names, default))

        await context.decide(_START, decide, writes=[PROVIDERS.key(providers.PROVIDERS)])

    def router(self, context: ServiceContext) -> APIRouter:
        """The service's routes. A message that is kept is looked at without delay."""
        return router(context, self._connected, self._kept, self._asked.set)

    def _kept(self, provider: str) -> None:
        self._arrived[provider].set()

    async def webhooks(self, context: ServiceContext, leases: Leases) -> None:
        """Follow what changes at every provider, until the service ends; then nothing is done there either."""
        try:
            async with asyncio.TaskGroup() as group:
                for name, one in self._connected.items():
                    ingest = Ingest(context, leases, name, one.provider, one.inbound, self._arrived[name])
                    group.create_task(ingest.run(), name=f"webhooks of {name}")
                    if isinstance(one.provider, Lists):
                        reconciler = Reconciler(context, leases, name, one.provider, self._asked)
                        group.create_task(reconciler.run(), name=f"reconciling {name}")
                    if isinstance(one.provider, Redelivers):
                        sweeper = Sweeper(context, leases, name, one.provider, self._kept)
                        group.create_task(sweeper.run(), name=f"sweeping {name}")
        finally:
            for one in self._connected.values():
                await one.close()


def service() -> Service:
    """The billing service."""
    connections = Connections()
    return Service(
        name="billing",
        settings=Settings,
        states=STATES,
        subscriptions=HANDLERS,
        jobs=JOBS,
        timers=(
            Timer(SUBSCRIPTIONS, "due", subscriptions.on_time, owner="tenant_id"),
            Timer(
                CONTRACTS,
                "due",
                manual.on_time,
                extra_statements=lambda id_, now: partial(enqueue_sync, contracts.MANUAL, id_, now),
            ),
            Timer(ENTITLEMENTS, "due", entitlements.on_time),
            Timer(CHANGES, "due", changes.on_time),
            Timer(LICENCES, "due", licences.on_time),
            Timer(KEYRINGS, "due", licence_keys.on_time),
            Timer(REVOCATION_LISTS, "due", revocations.on_time),
        ),
        router=connections.router,
        effects=connections.connect,
        on_start=(connections.begin, publish_catalogue, allow_publishers, request_first_key),
        background=(connections.webhooks, close_windows, run_plan_migrations),
    )


async def publish_catalogue(context: ServiceContext) -> None:
    """Sell what plans.yaml says when nothing was ever published; after that, people publish.

    Raises ConfigurationError, which ends the start: nothing is sold by mistake.
    """
    if await context.rows(select(CatalogueRow.id)):
        return
    plans = _plans(context.settings)

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        known, noted = unit.get(CATALOGUES, catalogue.CATALOGUE), unit.get(TIERS, tiers.TIERS)
        if known is None:
            said = catalogue.publish(None, plans.content, noted.buildable if noted is not None else None)
            unit.record(CATALOGUES, catalogue.CATALOGUE, said)

    try:
        await context.decide(
            _START, decide, writes=[CATALOGUES.key(catalogue.CATALOGUE)], reads=[TIERS.key(tiers.TIERS)]
        )
    except CatalogueRefusedError as error:
        raise ConfigurationError("\n".join(plans.report(error.objections))) from None


async def allow_publishers(context: ServiceContext) -> None:
    """Let those report usage whom the publishers file names."""
    grants = context.settings.publisher_grants()

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        known = unit.get(PUBLISHERS, publishers.PUBLISHERS)
        unit.record(PUBLISHERS, publishers.PUBLISHERS, publishers.allow(known, grants))

    await context.decide(_START, decide, writes=[PUBLISHERS.key(publishers.PUBLISHERS)])


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
