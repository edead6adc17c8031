"""Job that reports a tenant whose customer pays for several subscriptions that give access."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from paybill_contracts.envelope import Origin
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import JobRequest, Priority, request_job
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state
from paybill_runtime.jobs.kinds import AttemptFailedError, ClaimedJob, Kind, RetryAfter

from paybill_billing.incidents import INCIDENTS
from paybill_billing.providers.port import (
    CustomerSubscriptions,
    MalformedObjectError,
    ProviderConnection,
    ProviderRefusedError,
    ProviderUnavailableError,
)
from paybill_billing.providers.sync_queue import LEASE
from paybill_billing.subscriptions.domain import second
from paybill_billing.subscriptions.domain.entitling import ENTITLING
from paybill_billing.subscriptions.tables import (
    ACCOUNTS,
    SUBSCRIPTIONS,
    SUBSCRIPTIONS_OF_TENANT,
    enqueue_syncs_of_tenant,
)

CHECK = "check_second_subscription"
"""Kind of the jobs. The key is the id of the tenant."""
DELAY = timedelta(minutes=15)
"""Time that a customer has to replace one subscription by another, as before an offboarding."""
WATCH_S = 600.0
"""Interval at which a known second subscription is checked again: it may end by time alone."""


def request_check(tenant_id: str, now: datetime, statement: Statement) -> None:
    """Requests a check of a tenant's subscriptions after the delay; one that is requested already keeps its time."""
    request_job(statement, JobRequest(CHECK, tenant_id, LEASE, now + DELAY, priority=Priority.BULK), "due = j.due")


class SecondSubscriptionChecks:
    """Opens and closes the incidents about second subscriptions."""

    def __init__(self, context: ServiceContext, connected: Mapping[str, ProviderConnection]) -> None:
        self._context = context
        self._connected = connected

    def kind(self) -> Kind:
        """Returns the kind of the jobs, which `request_check` requests."""
        return Kind(CHECK, self._run, priority=Priority.BULK, concurrency=2, exclusive=True)

    async def _run(self, job: ClaimedJob) -> float | None:
        """Records the incident, or its end; returns the seconds until the next check of a second subscription."""
        tenant_id, subject = job.key, second.subject_of(job.key)
        rows = await self._context.rows(SUBSCRIPTIONS_OF_TENANT, {"tenant_id": tenant_id})
        ids = [row.id for row in rows if row.access in ENTITLING]
        try:
            running = await self._running(tenant_id) if len(ids) > 1 else None
        except ProviderUnavailableError as error:
            raise RetryAfter(error.after_s, str(error)) from error
        except (ProviderRefusedError, MalformedObjectError) as error:
            raise AttemptFailedError(f"{type(error).__name__}: {error}"[:400]) from error
        is_stale = False

        def decide(unit: UnitOfWork, at: DecisionContext) -> bool:
            nonlocal is_stale
            account = unit.get(ACCOUNTS, tenant_id)
            states = [unit.get(SUBSCRIPTIONS, id_) for id_ in ids]
            held = [state.subscription for state in states if state is not None]
            known = [each for each in held if running is None or each.provider_subscription in running]
            is_stale = len(known) < len(held)
            finding = second.finding_of(tenant_id, known)
            if finding is None or account is None or account.leaving:
                INCIDENTS.close(unit, second.SECOND, subject, "one subscription gives access at most", at.now)
                return False
            INCIDENTS.open(unit, finding, at.now)
            return True

        def fetch(statement: Statement) -> None:
            if is_stale:
                enqueue_syncs_of_tenant(tenant_id, self._context.now(), statement)

        cause = f"job:{CHECK}/{tenant_id}"
        is_found = await self._context.decide(
            Origin(cause, cause, "service:billing", ""),
            decide,
            writes=[INCIDENTS.key_of(second.SECOND, subject)],
            reads=[ACCOUNTS.key(tenant_id), *map(SUBSCRIPTIONS.key, ids)],
            extra_statements=fetch,
            leases=job.leases,
        )
        return WATCH_S if is_found else None

    async def _running(self, tenant_id: str) -> set[str] | None:
        """Returns the subscriptions that the provider shows: the webhook about the end of one may be lost."""
        account = await load_state(self._context, ACCOUNTS, tenant_id)
        connection = self._connected.get(account.provider) if account is not None else None
        if account is None or account.customer is None or connection is None:
            return None
        if not isinstance(connection.provider, CustomerSubscriptions):
            return None
        return {each.id for each in await connection.provider.subscriptions_of(account.customer)}
