"""Effects of change events: get the quote of the provider, and apply the change at the provider."""

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

from paybill_contracts.billing import Subscription
from paybill_contracts.changes import ChangeConfirmed, ChangeRequested, Proration
from paybill_contracts.values import Text
from paybill_runtime.database import ExtraStatements
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.effects import Job, JobRegistry, Outcome, Refused
from pydantic import TypeAdapter

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.domain.catalogue import Catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.providers.errors import provider_errors
from paybill_billing.providers.port import ChangeRefusedError, Providers, QuoteOutdatedError
from paybill_billing.providers.sync_queue import EFFECTS, enqueue_sync
from paybill_billing.subscriptions.domain import change_requests, changes
from paybill_billing.subscriptions.domain.changes import Change, Status
from paybill_billing.subscriptions.jobs.usage_reports import ReportUsage, UnreportedUsage
from paybill_billing.subscriptions.tables import ACCOUNTS, CHANGES, SUBSCRIPTIONS

REFUSED = "provider_refused"
_LINE = TypeAdapter(Text)


def _failed(job: Job[ChangeRequested] | Job[ChangeConfirmed], reason: str) -> Outcome:
    """Refuses the change, which answers the request: the job of a refused change has nothing left to do."""
    line = _LINE.validate_python(" ".join(reason.split())[:500] or "unknown")
    return _refusal(job.event.change_id, REFUSED, line)


def _refusal(change_id: str, code: str, reason: str, extra_statements: ExtraStatements | None = None) -> Outcome:
    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        change = changes.existing(unit.get(CHANGES, change_id), change_id)
        unit.record(CHANGES, change_id, changes.refused(change, code, reason))

    return Outcome(decide, writes=[CHANGES.key(change_id)], last=True, extra_statements=extra_statements)


def _outdated(job: Job[ChangeConfirmed], subscription: Subscription, current: Proration) -> Outcome:
    change_id, id_ = job.event.change_id, subscription.subscription_id

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        change, state = changes.existing(unit.get(CHANGES, change_id), change_id), unit.get(SUBSCRIPTIONS, id_)
        now = state.subscription if state is not None else subscription
        unit.record(CHANGES, change_id, changes.outdated(change, now, current))

    return Outcome(
        decide,
        writes=[CHANGES.key(change_id)],
        reads=[SUBSCRIPTIONS.key(id_)],
        last=True,
        extra_statements=_synced(job, subscription),
    )


def _synced(job: Job[Any], subscription: Subscription) -> ExtraStatements:
    """Enqueues a sync of the subscription."""
    return partial(enqueue_sync, subscription.provider, subscription.provider_subscription, job.now())


class ChangeEffects:
    """Effects of changes. report_usage, unreported_usage: for changes that make the provider invoice usage."""

    def __init__(self, report_usage: ReportUsage, unreported_usage: UnreportedUsage) -> None:
        self._report_usage = report_usage
        self._unreported_usage = unreported_usage

    def jobs(self) -> JobRegistry:
        """Returns the effects."""
        registry = JobRegistry()
        registry.effect(ChangeRequested, attempts=8, failed=_failed, limit=EFFECTS)(self.quote)
        registry.effect(ChangeConfirmed, attempts=8, failed=_failed, limit=EFFECTS)(self.make)
        return registry

    async def quote(self, job: Job[ChangeRequested], providers: Providers) -> AsyncIterator[Outcome]:
        """Gets the provider's quote and records it with the feature differences.

        The quote of a change that invoices usage contains all usage so far. It is not reported before: a quote changes
        nothing, and what applies to the usage may change until the change is confirmed.
        """
        change, subscription, known = await _load(job)
        if change.status is not Status.REQUESTED:
            return
        desired = change_requests.desired_at_provider(known, subscription, change.wanted)
        if changes.invoices_usage(change.wanted):
            unreported = await self._unreported_usage(
                job, subscription.tenant_id, subscription.provider, subscription.subscription_id
            )
            desired = replace(desired, unreported=unreported)
        before = catalogue.published(known, subscription.plan.plan, subscription.plan.version).plan
        provider, target, at = providers[subscription.provider], subscription.provider_subscription, job.now()
        try:
            with provider_errors():
                proration = await provider.quote(target, desired, at)
                if (unpaid := proration.unpaid) is not None and change.wanted.unpaid_without_proration:
                    proration = await provider.quote(target, replace(desired, without_proration=True), at)
                    proration = proration.model_copy(update={"unpaid": unpaid})
        except ChangeRefusedError as error:
            yield _refusal(change.id, error.code, str(error), _synced(job, subscription))
            return

        account, currency = await job.state(ACCOUNTS, change.tenant_id), subscription.price.currency
        debts = account.debt if account is not None else ()
        environment = account.environment if account is not None else None
        debt = next((amount for amount in debts if amount.currency == currency), None)

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            requested = changes.existing(unit.get(CHANGES, change.id), change.id)
            # The payment may have failed during the call.
            state = unit.get(SUBSCRIPTIONS, change.subscription_id)
            now = state.subscription if state is not None else subscription
            quoted = changes.quoted(
                requested, now, proration, before, desired.plan or before, at.now, debt, environment
            )
            unit.record(CHANGES, change.id, quoted)

        yield Outcome(
            decide, writes=[CHANGES.key(change.id)], reads=[SUBSCRIPTIONS.key(change.subscription_id)], last=True
        )

    async def make(self, job: Job[ChangeConfirmed], providers: Providers) -> AsyncIterator[Outcome]:
        """Applies the change as quoted, and enqueues a sync: its events report the new subscription.

        It is refused when the subscription changed at the provider since the quote, and it would not cost the same.
        A change that ends the period or the subscription waits until all usage is reported: its invoice has the usage.
        """
        change, subscription, known = await _load(job)
        if change.status is not Status.CONFIRMED or change.quote is None:
            return
        if changes.invoices_usage(change.wanted):
            tenant_id, id_ = subscription.tenant_id, subscription.subscription_id
            async for outcome in self._report_usage(job, tenant_id, subscription.provider, change.id, id_):
                yield outcome
        confirmed = change.quote.proration
        desired = replace(change_requests.desired_at_provider(known, subscription, change.wanted), confirmed=confirmed)
        target = subscription.provider_subscription
        try:
            with provider_errors():
                await providers[subscription.provider].change(target, desired, confirmed.effective_at, job.id)
        except ChangeRefusedError as error:
            yield _refusal(change.id, error.code, str(error), _synced(job, subscription))
            return
        except QuoteOutdatedError as error:
            yield _outdated(job, subscription, error.current)
            return

        def decide(unit: UnitOfWork, _: DecisionContext) -> None:
            confirmed = changes.existing(unit.get(CHANGES, change.id), change.id)
            unit.record(CHANGES, change.id, changes.applied(confirmed))

        yield Outcome(
            decide,
            writes=[CHANGES.key(change.id)],
            last=True,
            extra_statements=_synced(job, subscription),
        )


async def _load(job: Job[ChangeRequested] | Job[ChangeConfirmed]) -> tuple[Change, Subscription, Catalogue]:
    change = await job.state(CHANGES, job.event.change_id)
    state = await job.state(SUBSCRIPTIONS, job.event.subscription_id)
    known = await job.state(CATALOGUES, catalogue.CATALOGUE)
    if change is None or state is None or known is None:
        raise Refused(f"the subscription of {job.event.change_id} is unknown")
    return change, state.subscription, known
