"""Job that reports what a customer pays for by mistake: a second subscription, or one without access to its tenant."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from paybill_contracts.accounts import LeftoverAction, LeftoverFound
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import JobRequest, Priority, discard_failed, request_job
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state, state_column
from paybill_runtime.jobs.kinds import ClaimedJob, Kind
from sqlmodel import col, select

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.incidents import INCIDENTS, IncidentRow
from paybill_billing.providers.checks import GivenUpError, attempt, close_unknown, give_up, origin_of
from paybill_billing.providers.port import (
    CustomerSubscriptions,
    ProviderConnection,
)
from paybill_billing.providers.port.snapshots import ProviderSnapshot
from paybill_billing.providers.sync_queue import LEASE
from paybill_billing.subscriptions.domain import leftovers, second, subscriptions
from paybill_billing.subscriptions.domain.accounts import Account
from paybill_billing.subscriptions.domain.entitling import ENTITLING
from paybill_billing.subscriptions.tables import (
    ACCOUNTS,
    SUBSCRIPTIONS,
    SUBSCRIPTIONS_OF_TENANT,
    enqueue_syncs_of_tenant,
)

CHECK = "check_subscriptions"
"""Kind of the jobs. The key is the id of the tenant."""
DELAY = timedelta(minutes=15)
"""Time that a customer has to replace one subscription by another, as before an offboarding."""
WATCH_S = 600.0
"""Interval at which a known second subscription is checked again: it may end by time alone."""


def request_check(tenant_id: str, now: datetime, statement: Statement, *, is_ended: bool = False) -> None:
    """Requests a check of a tenant's subscriptions after the delay.

    is_ended: the last one ended. The check is then after the time at which the offboarding should have begun. Of a
    second one it does not wait for that: the tenant has returned.
    """
    due = now + (2 * DELAY if is_ended else DELAY)
    job = JobRequest(CHECK, tenant_id, LEASE, due, priority=Priority.BULK)
    request_job(statement, job, "due = greatest(j.due, excluded.due)" if is_ended else "due = excluded.due")


NOT_LEFT = "the tenant has no access, and its offboarding has not begun"


class SubscriptionChecks:
    """Opens and closes the incidents about second subscriptions, and about others while an offboarding is delayed."""

    def __init__(self, context: ServiceContext, connected: Mapping[str, ProviderConnection]) -> None:
        self._context = context
        self._connected = connected

    def kind(self) -> Kind:
        """Returns the kind of the jobs, which `request_check` requests."""
        return Kind(CHECK, self._run, priority=Priority.BULK, concurrency=2, exclusive=True)

    async def _run(self, job: ClaimedJob) -> float | None:
        """Records the incidents, or their ends; returns the seconds until the next check while one may be needed."""
        tenant_id, subject = job.key, second.subject_of(job.key)
        rows = await self._context.rows(SUBSCRIPTIONS_OF_TENANT, {"tenant_id": tenant_id})
        ids = [row.id for row in rows if row.access in ENTITLING]
        try:
            with attempt(job):
                running = await self._running(tenant_id) if len(ids) > 1 else None
                unserved = [] if ids or not rows else await self._unserved(tenant_id)
        except GivenUpError as error:
            await give_up(
                self._context,
                job,
                error,
                kind=second.UNKNOWN,
                subject=subject,
                summary=second.UNKNOWN_SUMMARY,
                tenant_id=tenant_id,
            )
            return None
        open_ = await self._open_leftovers(tenant_id)
        subjects = {leftovers.subject_of(each.id) for each in unserved}
        is_stale = was_unknown = False

        def decide(unit: UnitOfWork, at: DecisionContext) -> bool:
            nonlocal is_stale, was_unknown
            was_unknown = close_unknown(unit, second.UNKNOWN, subject, "the subscriptions were listed", at.now)
            account = unit.get(ACCOUNTS, tenant_id)
            if account is not None and not account.is_gone:
                for each in unserved:
                    INCIDENTS.open(unit, leftovers.finding_of(_found(account, each), NOT_LEFT), at.now)
                for subject_ in open_ - subjects:
                    INCIDENTS.close(unit, leftovers.LEFTOVER, subject_, "it ended, or its tenant has access", at.now)
            states = [unit.get(SUBSCRIPTIONS, id_) for id_ in ids]
            held = [state.subscription for state in states if state is not None]
            known = [each for each in held if running is None or each.provider_subscription in running]
            is_stale = len(known) < len(held)
            finding = second.finding_of(tenant_id, known)
            if finding is None or account is None or account.leaving:
                INCIDENTS.close(unit, second.SECOND, subject, "one subscription gives access at most", at.now)
                return not ids and account is not None and not account.is_gone
            INCIDENTS.open(unit, finding, at.now)
            return True

        def finish(statement: Statement) -> None:
            if is_stale:
                enqueue_syncs_of_tenant(tenant_id, self._context.now(), statement)
            if was_unknown:
                discard_failed(statement, CHECK, tenant_id)

        is_again = await self._context.decide(
            origin_of(job),
            decide,
            writes=[
                INCIDENTS.key_of(second.UNKNOWN, subject),
                INCIDENTS.key_of(second.SECOND, subject),
                *(INCIDENTS.key_of(leftovers.LEFTOVER, each) for each in sorted(open_ | subjects)),
            ],
            reads=[ACCOUNTS.key(tenant_id), *map(SUBSCRIPTIONS.key, ids)],
            extra_statements=finish,
            leases=job.leases,
        )
        return WATCH_S if is_again else None

    async def _unserved(self, tenant_id: str) -> list[ProviderSnapshot]:
        """Returns the subscriptions to no plan of a customer whose tenant has no access and has not left."""
        account = await load_state(self._context, ACCOUNTS, tenant_id)
        known = await load_state(self._context, CATALOGUES, catalogue.CATALOGUE)
        if account is None or known is None or account.is_gone:
            return []
        begun = [each for each in await self._listed(account) or () if each.status != "incomplete"]
        return [each for each in begun if subscriptions.running_plan(known, account, [each]) is None]

    async def _open_leftovers(self, tenant_id: str) -> set[str]:
        """Returns the subjects of the open incidents about subscriptions of the tenant's customer."""
        rows = await self._context.rows(select(state_column(INCIDENTS)).where(col(IncidentRow.tenant_id) == tenant_id))
        found = [INCIDENTS.load(row.state) for row in rows]
        return {
            each.subject
            for each in found
            if (each.kind, each.status) == (leftovers.LEFTOVER, "open") and each.subject.startswith("subscription/")
        }

    async def _running(self, tenant_id: str) -> set[str] | None:
        """Returns the subscriptions that the provider shows: the webhook about the end of one may be lost."""
        account = await load_state(self._context, ACCOUNTS, tenant_id)
        listed = await self._listed(account) if account is not None else None
        return None if listed is None else {each.id for each in listed}

    async def _listed(self, account: Account) -> Sequence[ProviderSnapshot] | None:
        """Returns the customer's subscriptions at the provider; None when it has no customer, or cannot list them."""
        connection = self._connected.get(account.provider)
        if account.customer is None or connection is None:
            return None
        if not isinstance(connection.provider, CustomerSubscriptions):
            return None
        return await connection.provider.subscriptions_of(account.customer)


def _found(account: Account, snapshot: ProviderSnapshot) -> LeftoverFound:
    return LeftoverFound(
        tenant_id=account.id,
        provider=account.provider,
        customer=snapshot.customer,
        subscription=snapshot.id,
        action=LeftoverAction.REPORT,
    )
