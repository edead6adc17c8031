"""Builds the billing service from its contexts."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

from fastapi import APIRouter
from paybill_contracts.billing import AccessState
from paybill_contracts.envelope import Origin
from paybill_runtime.app import Service
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.diagnosis.invariants import Invariants, TenantState
from paybill_runtime.diagnosis.measurements import StateCount
from paybill_runtime.diagnosis.tenant_part import OwnState
from paybill_runtime.jobs.effects import JobRegistry, Timer
from paybill_runtime.jobs.kinds import Kind
from paybill_runtime.security.secrets import Secrets

from paybill_billing.api import router
from paybill_billing.api.why import read_state
from paybill_billing.catalogue.jobs import publish_initial_catalogue
from paybill_billing.consumer import HANDLERS
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.incidents import INCIDENTS, VIOLATIONS
from paybill_billing.licences import jobs as licence_jobs
from paybill_billing.licences.domain import licence_keys, licences, revocations
from paybill_billing.licences.effects import ExternalSystems, SigningKeys
from paybill_billing.licences.jobs import request_first_key
from paybill_billing.licences.tables import KEYRINGS, LICENCES, REVOCATION_LISTS
from paybill_billing.providers import domain as providers
from paybill_billing.providers.manual.domain import contracts, manual
from paybill_billing.providers.manual.tables import CONTRACTS, ManualContractTable
from paybill_billing.providers.port import EventSource, ProviderConnection, RedeliverySource, SubscriptionLister
from paybill_billing.providers.registry import connect
from paybill_billing.providers.sync_queue import LEASE, enqueue_sync
from paybill_billing.providers.tables import PROVIDERS
from paybill_billing.reconciliation.jobs.redelivery import RedeliveryPoller
from paybill_billing.reconciliation.jobs.runs import Reconciler
from paybill_billing.settings import Settings
from paybill_billing.statements import domain as statements
from paybill_billing.statements.jobs import StatementChecks
from paybill_billing.statements.tables import STATEMENTS
from paybill_billing.subscriptions import jobs as subscription_jobs
from paybill_billing.subscriptions.domain import changes, subscriptions
from paybill_billing.subscriptions.jobs.plan_migrations import PlanMigrationRunner, continue_plan_migrations
from paybill_billing.subscriptions.jobs.subscription_checks import SubscriptionChecks
from paybill_billing.subscriptions.tables import (
    ACCOUNTS,
    CHANGES,
    SUBSCRIPTION_COUNTS,
    SUBSCRIPTIONS,
    UNPAID_COUNTS,
    enqueue_overdue_sync,
)
from paybill_billing.tables import STATES
from paybill_billing.usage import jobs as usage_jobs
from paybill_billing.usage.jobs import CUTOFF_DUE, WINDOWS_DUE, WindowCloser, configure_publishers
from paybill_billing.usage.jobs.waiting import unreported_usage, usage_reported
from paybill_billing.webhooks.jobs import ProviderSync, cleanup

OVERDUE_PAUSE_S = 300.0
"""Time until an overdue subscription is fetched again."""
JOBS = JobRegistry(subscription_jobs.jobs(usage_reported, unreported_usage), usage_jobs.JOBS, licence_jobs.JOBS)
"""Effects of all contexts."""
TIMERS = (
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
    Timer(
        SUBSCRIPTIONS,
        "look",
        lambda _state, _now: (),
        extra_statements=lambda id_, now: partial(enqueue_overdue_sync, id_, now),
        pause_s=OVERDUE_PAUSE_S,
    ),
    WINDOWS_DUE,
    CUTOFF_DUE,
)
INVARIANTS = Invariants(
    VIOLATIONS,
    (TenantState(STATEMENTS, id_of=str, tenant_of=lambda statement: statement.id),),
    rules=statements.RULES,
    journey=TenantState(ACCOUNTS, id_of=str, tenant_of=lambda account: account.id),
)
"""Invariants of the service (docs/invariants.md)."""
COUNTS = (
    StateCount(
        "paybill.subscriptions",
        "{subscription}",
        "Subscriptions, by access.",
        "paybill.access",
        SUBSCRIPTION_COUNTS,
        AccessState,
    ),
    StateCount(
        "paybill.subscriptions.unpaid",
        "{subscription}",
        "Subscriptions in dunning: with an unpaid invoice, by access.",
        "paybill.access",
        UNPAID_COUNTS,
        AccessState,
    ),
)
_START = Origin("start", "start", "service:billing", "")


class ProviderConnections:
    """Connections of this process to the providers, one each: effects and syncs share its rate limit."""

    def __init__(self) -> None:
        self._contracts = ManualContractTable()
        self._by_name: Mapping[str, ProviderConnection] = {}
        self._window_closer: WindowCloser | None = None

    def connect(self, settings: Settings, secrets: Secrets) -> ExternalSystems:
        """Connects the configured providers and the store of the signing keys."""
        self._by_name = connect(settings, self._contracts)
        return ExternalSystems({name: one.provider for name, one in self._by_name.items()}, SigningKeys(secrets))

    @asynccontextmanager
    async def lifespan(self, _: ServiceContext) -> AsyncIterator[None]:
        """Closes all connections when the service stops."""
        try:
            yield
        finally:
            if self._window_closer is not None:
                await self._window_closer.disconnect()
            for one in self._by_name.values():
                await one.close()

    async def record_providers(self, context: ServiceContext) -> None:
        """Records the configured providers before they are used."""
        await self._contracts.set_context(context)
        names, default = list(self._by_name), context.settings.default_provider

        def decide(unit: UnitOfWork, _: DecisionContext) -> None:
            choice = unit.get(PROVIDERS, providers.PROVIDERS)
            unit.record(PROVIDERS, providers.PROVIDERS, providers.configure(choice, names, default))

        await context.decide(_START, decide, writes=[PROVIDERS.key(providers.PROVIDERS)])

    def router(self, context: ServiceContext) -> APIRouter:
        """Returns the service's routes."""
        return router(context, self._by_name)

    async def read_state(self, context: ServiceContext, tenant_id: str) -> OwnState:
        """Returns what billing knows about a tenant, for its diagnosis."""
        return await read_state(context, self._by_name, tenant_id)

    def job_kinds(self, context: ServiceContext) -> Sequence[Kind]:
        """Returns the kinds of jobs beside effects and timers, those of each provider among them."""
        self._window_closer = WindowCloser(context)
        kinds = [cleanup(context), *self._window_closer.kinds(), PlanMigrationRunner(context).kind()]
        kinds += [
            StatementChecks(context, self._by_name).kind(),
            SubscriptionChecks(context, self._by_name).kind(),
        ]
        for name, one in self._by_name.items():
            kinds.append(ProviderSync(context, name, one.provider, one.inbound).kind())
            if isinstance(one.provider, SubscriptionLister):
                kinds.append(Reconciler(context, name, one.provider).kind())
            if isinstance(one.provider, RedeliverySource):
                poller = RedeliveryPoller(context, name, one.provider)
                if one.events_every_s is not None and isinstance(one.provider, EventSource):
                    poller = poller.instead_of_webhooks(one.provider, one.events_every_s)
                kinds.append(poller.kind())
        return kinds


def service() -> Service:
    """Returns the billing service."""
    connections = ProviderConnections()
    return Service(
        name="billing",
        settings=Settings,
        states=STATES,
        subscriptions=HANDLERS,
        jobs=JOBS,
        timers=TIMERS,
        router=connections.router,
        effects=connections.connect,
        lifespan=connections.lifespan,
        on_start=(
            connections.record_providers,
            publish_initial_catalogue,
            configure_publishers,
            request_first_key,
            continue_plan_migrations,
        ),
        job_kinds=connections.job_kinds,
        singleton_leases=(LEASE,),
        incidents=INCIDENTS,
        invariants=INVARIANTS,
        read_state=connections.read_state,
        counts=COUNTS,
    )
