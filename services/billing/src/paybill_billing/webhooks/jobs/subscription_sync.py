"""Sync of one provider object: fetches it, and records its events and the end of its webhooks in one transaction."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from weakref import WeakValueDictionary

from paybill_contracts.accounts import LeftoverAction, LeftoverEnded, LeftoverFound
from paybill_contracts.billing import AccessState
from paybill_contracts.envelope import Origin
from paybill_contracts.money import Money
from paybill_runtime.database.statement import ExtraStatements, Statement
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.kinds import ClaimedJob

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.domain.catalogue import UnknownPriceError
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.incidents import INCIDENTS
from paybill_billing.providers.port import (
    CustomerSubscriptions,
    DebtLister,
    Inbound,
    MalformedObjectError,
    Provider,
    ProviderRefusedError,
    ReferenceResolver,
    ResolvedReference,
)
from paybill_billing.providers.port.snapshots import CollectionAttempt, ProviderSnapshot
from paybill_billing.providers.sync_queue import CUSTOMER, NO_ACCOUNT, enqueue_sync
from paybill_billing.statements.tables import request_check
from paybill_billing.subscriptions.domain import accounts, grace, leftovers, payments, second, subscriptions
from paybill_billing.subscriptions.domain.accounts import Account
from paybill_billing.subscriptions.domain.entitling import entitling_subscriptions
from paybill_billing.subscriptions.domain.grace import FailedCollection
from paybill_billing.subscriptions.domain.payments import Payer
from paybill_billing.subscriptions.domain.subscriptions import UnknownStatusError
from paybill_billing.subscriptions.jobs.subscription_checks import request_check as request_subscription_check
from paybill_billing.subscriptions.tables import (
    ACCOUNT_OF_CUSTOMER,
    ACCOUNTS,
    OTHER_SUBSCRIPTIONS,
    PAYMENTS,
    SUBSCRIPTIONS,
    SUBSCRIPTIONS_OF_TENANT,
)
from paybill_billing.webhooks.domain import StaleReadError, UnknownCustomerError, customer_key
from paybill_billing.webhooks.jobs.access import UNCHANGED, update_access
from paybill_billing.webhooks.jobs.customer_sync import CustomerSync
from paybill_billing.webhooks.jobs.sync_span import sync_span
from paybill_billing.webhooks.tables import (
    BODIES,
    DISMISSED_AMONG,
    Owner,
    SyncTask,
    dismiss,
    finish,
    retarget,
    sync_task,
)

log = logging.getLogger(__name__)


class SubscriptionSync:
    """Syncs the objects of one provider. inbound: None when it sends no messages."""

    def __init__(self, context: ServiceContext, name: str, provider: Provider, inbound: Inbound | None) -> None:
        self._context = context
        self._name = name
        self._provider = provider
        self._inbound = inbound
        self._customers = CustomerSync(context, name, provider)
        self._tenant_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, job: ClaimedJob) -> None:
        """Fetches an object and records its events.

        Raises UnknownCustomerError, StaleReadError, and the errors of the provider and the rules.
        """
        task, leases = await sync_task(self._context, self._name, job), job.leases
        kind, _, id_ = task.target.rpartition("/")
        if task.customers and not task.owners and kind != CUSTOMER:
            raise UnknownCustomerError(min(task.customers).removeprefix(f"{self._name}/"), NO_ACCOUNT)
        async with sync_span(self._context, task) as traceparent:
            cause = task.event_ids[0] if task.event_ids else task.target
            origin = Origin(cause, cause, f"webhook:{self._name}", traceparent)
            if kind == CUSTOMER:
                await self._customers.run(task, id_, origin, leases)
            elif kind:
                await self._resolve(task, kind, id_, origin, leases)
            else:
                await self._fetch(task, origin, leases)

    async def dismissed(self, job: ClaimedJob, customer: str) -> bool:
        """Ends the sync of an object whose customer is dismissed; returns False for another customer."""
        id_ = customer_key(self._name, customer)
        if not await self._context.rows(DISMISSED_AMONG, {"ids": [id_]}):
            return False
        task = await sync_task(self._context, self._name, job)
        cause = task.event_ids[0] if task.event_ids else task.target
        origin = Origin(cause, cause, f"webhook:{self._name}", task.traceparent or "")
        statements = partial(dismiss, task, id_, self._context.now())
        await self._context.decide(origin, _no_events, extra_statements=statements, leases=job.leases)
        log.info("%s of %s is dismissed: %s is not ours", task.target, self._name, customer)
        return True

    async def _fetch(self, task: SyncTask, origin: Origin, leases: Mapping[str, int]) -> None:
        snapshot = await self._provider.fetch(task.target)
        if snapshot is None:
            log.warning("%s does not know %s any more", self._name, task.target)
            await self._finish(task, origin, leases)
            return
        owner = await self._owner(task, snapshot.customer)
        failures = await self._failures(task)
        debt = await self._debt(owner, snapshot)
        # The lock serialises the tenant's syncs: a subscription created between the query for the others and the
        # decision would be missed.
        async with self._tenant_locks.setdefault(owner.tenant_id, asyncio.Lock()):
            remaining = await self._sync_others(snapshot, owner, origin, leases)
            end = partial(self._end, task, snapshot.customer, is_final=snapshot.has_ended)
            await self._decide(
                origin,
                owner,
                snapshot,
                task.revision,
                leases,
                failures=failures,
                remaining=remaining,
                debt=debt,
                end=end,
            )

    def _end(self, task: SyncTask, customer: str, statement: Statement, *, is_final: bool) -> None:
        """Ends the task. After an end, a refund, or a message about an invoice the customer's statement is checked."""
        finish(task, self._context.now(), statement)
        if is_final or any("invoice." in type_ for type_ in task.event_types):
            due = self._context.now() + timedelta(seconds=self._context.settings.statement_delay_s)
            request_check(self._name, customer, due, statement)

    async def _debt(self, owner: Owner, snapshot: ProviderSnapshot) -> Sequence[Money] | None:
        """Returns what the customer owes; None when nothing suggests that it has changed."""
        is_unpaid = snapshot.status in grace.FAILING or snapshot.has_ended or owner.has_debt
        if not is_unpaid or not isinstance(self._provider, DebtLister):
            return None
        try:
            return await self._provider.debt_of(snapshot.customer)
        except (ProviderRefusedError, MalformedObjectError) as error:
            # Access must not wait for an amount that is only shown.
            log.warning("the debt of %s at %s is unknown: %s", snapshot.customer, self._name, error)
            return None

    async def _sync_others(
        self, ended: ProviderSnapshot, owner: Owner, origin: Origin, leases: Mapping[str, int]
    ) -> list[str]:
        """Syncs all other subscriptions of a customer before the end of one is decided.

        "Cancel the old one, create the new one" arrives as two messages, in any order. Returns the subscriptions that
        belong to no plan.
        """
        if not ended.has_ended or not isinstance(self._provider, CustomerSubscriptions):
            return []
        known = {
            row.id: row for row in await self._context.rows(SUBSCRIPTIONS_OF_TENANT, {"tenant_id": owner.tenant_id})
        }
        own = known.get(subscriptions.subscription_id(self._name, ended.id))
        if own is not None and own.access == AccessState.ENDED:
            return []
        remaining = []
        for other in await self._provider.subscriptions_of(ended.customer):
            row = known.get(subscriptions.subscription_id(self._name, other.id))
            try:
                await self._decide(origin, owner, other, row.revision if row is not None else 0, leases)
            except (UnknownPriceError, UnknownStatusError) as error:
                log.warning("%s of %s belongs to no plan: %s", other.id, self._name, error)
                remaining.append(other.id)
        return remaining

    async def _decide(
        self,
        origin: Origin,
        owner: Owner,
        snapshot: ProviderSnapshot,
        revision: int,
        leases: Mapping[str, int],
        *,
        failures: Sequence[tuple[CollectionAttempt, datetime]] = (),
        remaining: Sequence[str] = (),
        debt: Sequence[Money] | None = None,
        end: ExtraStatements | None = None,
    ) -> None:
        """Decides the sync of one subscription. revision: of our subscription before the fetch."""
        tenant_id = owner.tenant_id
        others = await self._others(tenant_id, snapshot)
        id_ = subscriptions.subscription_id(self._name, snapshot.id)
        access, is_final = UNCHANGED, snapshot.has_ended

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            nonlocal access
            account, current = unit.get(ACCOUNTS, tenant_id), unit.get(CATALOGUES, catalogue.CATALOGUE)
            if account is None or current is None:
                raise UnknownCustomerError(snapshot.customer, NO_ACCOUNT)
            if unit.revision(SUBSCRIPTIONS, id_) != revision:
                raise StaleReadError(f"{snapshot.id} changed during the fetch")
            if debt is not None:
                unit.record(ACCOUNTS, tenant_id, accounts.debt_fetched(account, debt))
            for attempt, _ in failures:
                payment = unit.get(PAYMENTS, attempt.event)
                failed = payments.record_failure(payment, attempt, tenant_id=tenant_id, subscription_id=id_)
                unit.record(PAYMENTS, attempt.event, failed)
            state = unit.get(SUBSCRIPTIONS, id_)
            try:
                sold = subscriptions.pinned_plan(current, account, state, snapshot)
            except UnknownPriceError:
                if not owner.is_gone:
                    raise
                self._record_leftover(unit, account, snapshot, at.now, is_sold=False)
                return
            if owner.is_gone:
                self._record_leftover(unit, account, snapshot, at.now, is_sold=True, is_known=state is not None)
            # What the customer of a leaving tenant subscribes to is cancelled: it replaces nothing that ended.
            found = [unit.get(SUBSCRIPTIONS, other) for other in others if not account.leaving]
            alternatives = [other.subscription for other in found if other is not None]
            events = subscriptions.sync(
                state,
                snapshot,
                tenant_id=tenant_id,
                provider=self._name,
                pinned=sold,
                failures=[FailedCollection(attempt.invoice, when) for attempt, when in failures],
                now=at.now,
                adopted=account.adopts is not None,
                others=alternatives,
                remaining=remaining,
            )
            unit.record(SUBSCRIPTIONS, id_, events)
            if events and (unserved := leftovers.unserved_payment(account, snapshot)) is not None:
                INCIDENTS.open(unit, unserved, at.now)
            if snapshot.has_ended and len(entitling_subscriptions(alternatives)) <= 1:
                INCIDENTS.close(unit, second.SECOND, second.subject_of(tenant_id), "one of them has ended", at.now)
            access = update_access(unit, account, current, sold.plan, events, alternatives, at.now)

        def extra(statement: Statement) -> None:
            if end is not None:
                end(statement)
            if access.is_returning:
                enqueue_sync(self._name, f"{CUSTOMER}/{snapshot.customer}", self._context.now(), statement)
            if access.is_second or access.is_last:
                request_subscription_check(tenant_id, self._context.now(), statement, is_ended=access.is_last)

        await self._context.decide(
            origin,
            decide,
            writes=[
                SUBSCRIPTIONS.key(id_),
                ENTITLEMENTS.key(tenant_id),
                *(PAYMENTS.key(attempt.event) for attempt, _ in failures),
                *([ACCOUNTS.key(tenant_id)] if owner.is_gone or debt is not None else []),
                *([_incident_of(snapshot)] if owner.is_gone else []),
                *([_incident_of(snapshot, leftovers.UNSERVED_PAYMENT), _second_of(tenant_id)] if is_final else []),
            ],
            reads=[ACCOUNTS.key(tenant_id), CATALOGUES.key(catalogue.CATALOGUE), *map(SUBSCRIPTIONS.key, others)],
            extra_statements=extra,
            leases=leases,
        )

    def _record_leftover(
        self,
        unit: UnitOfWork,
        account: Account,
        snapshot: ProviderSnapshot,
        now: datetime,
        *,
        is_sold: bool,
        is_known: bool = False,
    ) -> None:
        """Records a subscription of a tenant that left, and its end; reports it if that is the policy."""
        events = leftovers.on_fetched(
            account, snapshot, self._context.settings.leftovers, is_sold=is_sold, is_known=is_known
        )
        unit.record(ACCOUNTS, account.id, events)
        for event in events:
            match event:
                case LeftoverFound(action=LeftoverAction.REPORT):
                    INCIDENTS.open(unit, leftovers.finding_of(event), now)
                case LeftoverEnded():
                    subject = leftovers.subject_of(snapshot.id)
                    INCIDENTS.close(unit, leftovers.LEFTOVER, subject, "it has ended at the provider", now)

    async def _resolve(self, task: SyncTask, kind: str, id_: str, origin: Origin, leases: Mapping[str, int]) -> None:
        """Resolves another object: records refunds and disputes, or assigns the messages to their object."""
        if not isinstance(self._provider, ReferenceResolver):
            raise ProviderRefusedError(f"{self._name} cannot resolve a {kind}")
        reference = await self._provider.resolve(kind, id_)
        if reference is None:
            log.warning("%s does not know %s any more", self._name, task.target)
        elif reference.target is not None and reference.target != task.target:
            statements = partial(retarget, task, reference.target, self._context.now())
            await self._context.decide(origin, _no_events, extra_statements=statements, leases=leases)
            return
        elif reference.expired_checkout is not None:
            customer = reference.customer or ""
            await self._customers.record_expired_checkout(task, customer, reference.expired_checkout, origin, leases)
            return
        elif reference.reversals and reference.customer is None:
            log.info("%s of %s belongs to no customer, so it is not ours", task.target, self._name)
        elif reference.reversals:
            owner = await self._owner(task, reference.customer or "")
            await self._record_reversals(task, reference, owner.tenant_id, origin, leases)
            return
        await self._finish(task, origin, leases)

    async def _record_reversals(
        self, task: SyncTask, reference: ResolvedReference, tenant_id: str, origin: Origin, leases: Mapping[str, int]
    ) -> None:
        about = reference.subscription
        id_ = subscriptions.subscription_id(self._name, about) if about is not None else None
        payer = Payer(tenant_id, self._name, id_, reference.invoice)

        def decide(unit: UnitOfWork, _: DecisionContext) -> None:
            for reversal in reference.reversals:
                payment = unit.get(PAYMENTS, reversal.id)
                unit.record(PAYMENTS, reversal.id, payments.record_reversal(payment, reversal, payer))

        await self._context.decide(
            origin,
            decide,
            writes=[PAYMENTS.key(reversal.id) for reversal in reference.reversals],
            extra_statements=partial(self._end, task, reference.customer or "", is_final=True),
            leases=leases,
        )

    async def _finish(self, task: SyncTask, origin: Origin, leases: Mapping[str, int]) -> None:
        """Ends a task without events."""
        statements = partial(finish, task, self._context.now())
        await self._context.decide(origin, _no_events, extra_statements=statements, leases=leases)

    async def _owner(self, task: SyncTask, customer: str) -> Owner:
        """Returns the owner of a customer, even if its account was opened meanwhile. Raises UnknownCustomerError."""
        name = f"{self._name}/{customer}"
        owner = task.owners.get(name)
        if owner is None:
            rows = await self._context.rows(ACCOUNT_OF_CUSTOMER, {"customer": name})
            owner = Owner(rows[0].id, rows[0].is_gone, rows[0].has_debt) if rows else None
        if owner is None:
            raise UnknownCustomerError(customer, NO_ACCOUNT)
        return owner

    async def _others(self, tenant_id: str, snapshot: ProviderSnapshot) -> list[str]:
        """Returns the tenant's other subscriptions, which may replace one that is not entitling."""
        if snapshot.is_entitling:
            return []
        id_ = subscriptions.subscription_id(self._name, snapshot.id)
        return [row.id for row in await self._context.rows(OTHER_SUBSCRIPTIONS, {"tenant_id": tenant_id, "id": id_})]

    async def _failures(self, task: SyncTask) -> list[tuple[CollectionAttempt, datetime]]:
        """Returns the failed attempts that the messages report, each with the provider's time."""
        if self._inbound is None:
            return []
        events = zip(task.event_ids, task.event_types, strict=True)
        reports = [event_id for event_id, type_ in events if self._inbound.is_payment_failure(type_)]
        if not reports:
            return []
        found = []
        for row in await self._context.rows(BODIES, {"provider": self._name, "ids": reports}):
            attempt = None
            if row.body is not None:
                attempt = self._inbound.failed_attempt(row.event_id, self._context.open_raw(bytes(row.body)))
            if attempt is None and row.object_id is not None and isinstance(self._provider, ReferenceResolver):
                attempt = await self._provider.failed_attempt(row.event_id, row.object_id)
            found += [(attempt, row.created)] if attempt is not None else []
        return found


def _incident_of(snapshot: ProviderSnapshot, kind: str = leftovers.LEFTOVER) -> Key:
    return INCIDENTS.key_of(kind, leftovers.subject_of(snapshot.id))


def _second_of(tenant_id: str) -> Key:
    return INCIDENTS.key_of(second.SECOND, second.subject_of(tenant_id))


def _no_events(_unit: UnitOfWork, _at: DecisionContext) -> None:
    """Decides nothing."""
