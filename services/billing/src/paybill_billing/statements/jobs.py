"""Job that compares what a provider's invoices show about one customer with our facts."""

import logging
from collections.abc import Mapping
from datetime import timedelta

from paybill_contracts.billing import AccessState
from paybill_contracts.money import Money
from paybill_runtime.database.statement import Statement as SqlStatement
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import Priority, discard_failed
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state
from paybill_runtime.jobs.kinds import ClaimedJob, Kind

from paybill_billing.incidents import INCIDENTS
from paybill_billing.providers.checks import GivenUpError, attempt, close_unknown, give_up, origin_of
from paybill_billing.providers.port import (
    InvoiceLister,
    ProviderConnection,
    UsageInvoices,
)
from paybill_billing.statements import domain
from paybill_billing.statements.tables import CHECK, STATEMENTS
from paybill_billing.subscriptions.domain import payments
from paybill_billing.subscriptions.tables import (
    ACCOUNT_OF_CUSTOMER,
    PAYMENTS,
    RETURNED_PAYMENTS,
    SUBSCRIPTIONS_OF_TENANT,
)
from paybill_billing.usage.domain.billing_periods import open_from
from paybill_billing.usage.domain.closed_windows import ClosedWindow
from paybill_billing.usage.domain.invoices import UsageComparison, compare
from paybill_billing.usage.tables import BILLING_PERIODS, CLOSED_WINDOWS, windows_in_parts

log = logging.getLogger(__name__)

CONCURRENCY = 2
"""Checks at once: they must not use up the provider's rate limit, which syncs need."""
SHOWN = timedelta(days=100)
"""The age of the invoices whose usage is compared: three periods of a month."""
HISTORY = timedelta(days=500)
"""The age of the windows that such an invoice may have: of a year before it, and late usage."""
MAX_WINDOWS = 10_000
AGAIN_S = 30.0
"""Time until a new difference is checked again: it may be one between two requests to the provider."""
WATCH_S = 600.0
"""Interval at which a known difference is checked again."""


class StatementChecks:
    """Checks the statements of the customers of all providers that list invoices."""

    def __init__(self, context: ServiceContext, connected: Mapping[str, ProviderConnection]) -> None:
        self._context = context
        self._connected = connected

    def kind(self) -> Kind:
        """Returns the kind of the jobs, which `request_check` requests."""
        return Kind(CHECK, self._run, priority=Priority.BULK, concurrency=CONCURRENCY, exclusive=True)

    async def _run(self, job: ClaimedJob) -> float | None:
        try:
            with attempt(job):
                return await self._check(job)
        except GivenUpError as error:
            rows = await self._context.rows(ACCOUNT_OF_CUSTOMER, {"customer": job.key})
            await give_up(
                self._context,
                job,
                error,
                kind=domain.UNKNOWN,
                subject=domain.subject_of(job.key),
                summary=domain.unknown_summary(job.key),
                tenant_id=rows[0].id if rows else None,
            )
            return None

    async def _check(self, job: ClaimedJob) -> float | None:
        """Records the current statement; returns the seconds until the next check while usage or money differs."""
        name, _, customer = job.key.partition("/")
        connection = self._connected.get(name)
        rows = await self._context.rows(ACCOUNT_OF_CUSTOMER, {"customer": job.key})
        if connection is None or not rows or not isinstance(connection.provider, InvoiceLister):
            return None
        tenant_id = rows[0].id
        # Our facts about refunds first: their payment is on an invoice that is fetched afterwards.
        returned = await self._returned(tenant_id)
        totals = await connection.provider.invoice_totals(customer)
        compared = await self._compared(connection, tenant_id, customer)

        subject = domain.subject_of(job.key)
        was_unknown = exceeds = False

        def decide(unit: UnitOfWork, at: DecisionContext) -> bool:
            nonlocal was_unknown, exceeds
            was_unknown = close_unknown(unit, domain.UNKNOWN, subject, "the invoices were fetched", at.now)
            before = unit.get(STATEMENTS, tenant_id)
            events = domain.on_fetched(before, tenant_id, name, totals, returned, compared)
            unit.record(STATEMENTS, tenant_id, events)
            exceeds = domain.check_credit([unit.get(STATEMENTS, tenant_id)], at.now) is not None
            return bool(events)

        def discard(statement: SqlStatement) -> None:
            if was_unknown:
                discard_failed(statement, CHECK, job.key)

        has_changed = await self._context.decide(
            origin_of(job),
            decide,
            writes=[STATEMENTS.key(tenant_id), INCIDENTS.key_of(domain.UNKNOWN, subject)],
            extra_statements=discard,
            leases=job.leases,
        )
        if any(each.differs for each in compared):
            return AGAIN_S if has_changed else WATCH_S
        # No message reports that a person took the credit back.
        return WATCH_S if exceeds else None

    async def _returned(self, tenant_id: str) -> list[Money]:
        rows = await self._context.rows(RETURNED_PAYMENTS, {"tenant_id": tenant_id})
        found = [PAYMENTS.load(row.state) for row in rows]
        return [payment.amount for payment in found if payments.is_returned(payment)]

    async def _compared(self, connection: ProviderConnection, tenant_id: str, customer: str) -> list[UsageComparison]:
        """Compares the usage of a tenant with its invoices. The lines first: a final one has no usage from later on."""
        if not isinstance(connection.provider, UsageInvoices):
            return []
        since = self._context.now() - SHOWN
        if not any(window.provider_meter for window in await self._windows(tenant_id)):
            return []
        lines = await connection.provider.invoiced(customer, since)
        windows = await self._windows(tenant_id)
        if len(windows) >= MAX_WINDOWS:
            log.warning("the usage of %s is not compared with its invoices: it has too many windows", tenant_id)
            return []
        held = await self._context.rows(SUBSCRIPTIONS_OF_TENANT, {"tenant_id": tenant_id})
        ended = all(row.access == AccessState.ENDED for row in held)
        period = await load_state(self._context, BILLING_PERIODS, tenant_id)
        compared = compare(windows, lines, ended=ended, open_from=open_from(period))
        # The invoice of earlier usage may be older than those that were fetched.
        return [each for each in compared if each.invoice is not None or each.start >= since]

    async def _windows(self, tenant_id: str) -> list[ClosedWindow]:
        since = self._context.now() - HISTORY
        rows = await self._context.rows(windows_in_parts(tenant_id, since, MAX_WINDOWS))
        return [CLOSED_WINDOWS.load(row.state) for row in rows]
