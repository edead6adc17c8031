"""Effects of account events: open an account at its provider, and cancel what it has there."""

from collections.abc import AsyncIterator
from functools import partial

from paybill_contracts.accounts import AccountClosed, LeftoverAction, LeftoverFound, LeftoverKind
from paybill_contracts.billing import AccountRegistered, CancellationRequested
from paybill_contracts.purchases import price_for
from paybill_contracts.values import Text
from paybill_runtime.clock import now
from paybill_runtime.database.statement import ExtraStatements, Statement
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.effects import Job, JobRegistry, Outcome, Refused
from pydantic import TypeAdapter

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.incidents import INCIDENTS
from paybill_billing.providers.errors import provider_errors
from paybill_billing.providers.port import (
    ChargeLister,
    CustomerAdopter,
    CustomerSubscriptions,
    Order,
    ProviderRefusedError,
    Providers,
    TrialLister,
)
from paybill_billing.providers.port.snapshots import OpenedAccount, PendingCharge
from paybill_billing.providers.sync_queue import CUSTOMER, EFFECTS, account_opened, enqueue_sync
from paybill_billing.subscriptions.domain import accounts, leftovers, trials
from paybill_billing.subscriptions.domain.accounts import Account, Status, UnknownTenantError
from paybill_billing.subscriptions.jobs.usage_reports import ReportUsage
from paybill_billing.subscriptions.tables import ACCOUNTS, TRIALS, enqueue_syncs_of_tenant

JOBS = JobRegistry()
_LINE = TypeAdapter(Text)


def _failed(job: Job[AccountRegistered], reason: str) -> Outcome:
    tenant_id = job.event.tenant_id
    line = _LINE.validate_python(" ".join(reason.split()) or "unknown")

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        unit.record(ACCOUNTS, tenant_id, accounts.failed(_account(unit, tenant_id), line))

    return Outcome(decide, writes=[ACCOUNTS.key(tenant_id)])


@JOBS.effect(AccountRegistered, attempts=8, failed=_failed, limit=EFFECTS)
async def open_account(job: Job[AccountRegistered], providers: Providers) -> AsyncIterator[Outcome]:
    """Creates the tenant's customer at the provider, or adopts an existing one; skips a tenant that is leaving."""
    tenant_id = job.event.tenant_id
    account = await job.state(ACCOUNTS, tenant_id)
    known = await job.state(CATALOGUES, catalogue.CATALOGUE)
    if account is None or known is None or account.status is Status.OPEN or account.leaving:
        return
    if account.adopts is not None:
        yield await _adopt(account, account.adopts, providers, job.id)
        return
    plan = accounts.sold_plan(account, catalogue.published(known, account.plan, account.plan_version).plan)
    terms = accounts.sold_terms(account)
    order = Order(
        tenant_id=tenant_id,
        name=account.name,
        email=await job.open(account.contact_email),
        product=known.on_sale.product,
        plan=plan,
        terms=terms,
        metered=catalogue.metered_prices(known, plan, price_for(plan.prices, terms), account.provider),
    )
    with provider_errors():
        opened = await providers[account.provider].open(order, job.id)
    yield Outcome(
        lambda unit, _: _opened(unit, tenant_id, opened),
        writes=[ACCOUNTS.key(tenant_id)],
        last=True,
        extra_statements=lambda statement: account_opened(account.provider, opened.customer, now(), statement),
    )


class CancellationEffect:
    """Cancels all that a tenant has at its provider. report_usage: before, so that the last invoice has all usage."""

    def __init__(self, report_usage: ReportUsage) -> None:
        self._report_usage = report_usage

    def jobs(self) -> JobRegistry:
        """Returns the effect."""
        registry = JobRegistry()
        registry.effect(CancellationRequested, attempts=8, limit=EFFECTS)(self.cancel)
        return registry

    async def cancel(self, job: Job[CancellationRequested], providers: Providers) -> AsyncIterator[Outcome]:
        """Cancels all that the tenant has at its provider, and enqueues a sync: a webhook about it may be lost.

        A refused report does not keep a customer: what is not reported is unbilled. An abandoned sign-up releases its
        trial, unless its customer paid in that moment: a subscription with a trial has begun it.
        """
        event = job.event
        if event.customer is not None:
            try:
                async for outcome in self._report_usage(job, event.tenant_id, event.provider, f"cancellation {job.id}"):
                    yield outcome
            except Refused as refusal:
                job.log.warning("%s is cancelled although its usage is not reported: %s", event.tenant_id, refusal)
            with provider_errors():
                await providers[event.provider].cancel_all(event.customer)
        check = _check_charges(event.provider, event.customer)

        def enqueue(statement: Statement) -> None:
            enqueue_syncs_of_tenant(event.tenant_id, job.now(), statement)
            check(statement)

        account = await job.state(ACCOUNTS, event.tenant_id)
        trial_id = account.trial_id if account is not None and event.is_abandoned else None
        # After the cancellation: no checkout is open any more, at which a trial could begin.
        if trial_id is None or await _has_begun_trial(event, providers):
            yield Outcome(_nothing, last=True, extra_statements=enqueue)
            return

        def release(unit: UnitOfWork, _: DecisionContext) -> None:
            unit.record(TRIALS, trial_id, trials.release(unit.get(TRIALS, trial_id), event.tenant_id))

        yield Outcome(release, writes=[TRIALS.key(trial_id)], last=True, extra_statements=enqueue)


async def _has_begun_trial(event: CancellationRequested, providers: Providers) -> bool:
    provider = providers[event.provider]
    if event.customer is None or not isinstance(provider, TrialLister):
        return False
    with provider_errors():
        return await provider.has_begun_trial(event.customer)


@JOBS.effect(AccountClosed, attempts=8, limit=EFFECTS)
async def find_leftovers(job: Job[AccountClosed], providers: Providers) -> AsyncIterator[Outcome]:
    """Enqueues a sync of everything that the customer has at its provider: each sync decides whether it remains."""
    provider, found = job.event.provider, tuple[str, ...]()
    if job.event.customer is not None:
        with provider_errors():
            held = providers[provider]
            if isinstance(held, CustomerSubscriptions):
                found = tuple(sorted(each.id for each in await held.subscriptions_of(job.event.customer)))

    def enqueue(statement: Statement) -> None:
        for subscription in found:
            enqueue_sync(provider, subscription, now(), statement)
        _check_charges(provider, job.event.customer)(statement)

    yield Outcome(_nothing, last=True, extra_statements=enqueue)


def _not_cancelled(job: Job[LeftoverFound], reason: str) -> Outcome:
    line = _LINE.validate_python(" ".join(reason.split())[:400] or "unknown")

    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        INCIDENTS.open(unit, leftovers.finding_of(job.event, line), at.now)

    subject = leftovers.subject_of(job.event.subscription, job.event.kind)
    return Outcome(decide, writes=[INCIDENTS.key_of(leftovers.LEFTOVER, subject)])


@JOBS.effect(LeftoverFound, attempts=8, failed=_not_cancelled, limit=EFFECTS)
async def cancel_leftover(job: Job[LeftoverFound], providers: Providers) -> AsyncIterator[Outcome]:
    """Cancels a leftover, unless the policy is to report it. A sync finds its end: its webhook may be lost."""
    event, provider = job.event, providers[job.event.provider]
    is_cancelled = event.action is LeftoverAction.CANCEL
    if event.kind is LeftoverKind.SUBSCRIPTION:
        if is_cancelled and isinstance(provider, CustomerSubscriptions):
            with provider_errors():
                await provider.cancel(event.subscription)
        sync = partial(enqueue_sync, event.provider, event.subscription, job.now())
        yield Outcome(_nothing, last=True, extra_statements=sync if is_cancelled else None)
        return
    if is_cancelled and isinstance(provider, ChargeLister):
        with provider_errors():
            await provider.remove_charge(PendingCharge(event.kind, event.subscription))
    check = _check_charges(event.provider, event.customer if is_cancelled else None)
    yield Outcome(_nothing, last=True, extra_statements=check)


def _check_charges(provider: str, customer: str | None) -> ExtraStatements:
    """Returns the statement that enqueues a sync of what can charge a customer without a subscription."""

    def enqueue(statement: Statement) -> None:
        if customer is not None:
            enqueue_sync(provider, f"{CUSTOMER}/{customer}", now(), statement)

    return enqueue


async def _adopt(account: Account, customer: str, providers: Providers, key: str) -> Outcome:
    """Adopts a customer and enqueues a sync of its subscriptions: there may never be a webhook about them."""
    with provider_errors():
        provider = providers[account.provider]
        if not isinstance(provider, CustomerAdopter):
            raise ProviderRefusedError(f"{account.provider} cannot adopt an existing customer")
        subscriptions = await provider.adopt(customer, account.id, key)

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        unit.record(ACCOUNTS, account.id, accounts.adopted(_account(unit, account.id), customer))

    def enqueue(statement: Statement) -> None:
        account_opened(account.provider, customer, now(), statement, without=subscriptions)
        for subscription in sorted(subscriptions):
            enqueue_sync(account.provider, subscription, now(), statement)

    return Outcome(decide, writes=[ACCOUNTS.key(account.id)], last=True, extra_statements=enqueue)


def _nothing(_unit: UnitOfWork, _at: DecisionContext) -> None:
    """Records nothing: a sync records the changes."""


def _opened(unit: UnitOfWork, tenant_id: str, opened: OpenedAccount) -> None:
    unit.record(ACCOUNTS, tenant_id, accounts.opened(_account(unit, tenant_id), opened))


def _account(unit: UnitOfWork, tenant_id: str) -> Account:
    account = unit.get(ACCOUNTS, tenant_id)
    if account is None:
        raise UnknownTenantError(f"there is no account of {tenant_id}")
    return account
