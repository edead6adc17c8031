"""Closes usage windows when they are due, and allocates usage to invoices before the provider finalises them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from paybill_contracts.envelope import Origin
from paybill_contracts.incidents import Evidence, Finding
from paybill_runtime.decisions.aggregates import Stored, column_time
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import reason
from paybill_runtime.http.listing import load_state
from paybill_runtime.jobs.effects import DueJob
from paybill_runtime.jobs.kinds import ClaimedJob, Kind, RetryAfter
from paybill_runtime.messaging.inbox import LAST_POSITION
from paybill_runtime.messaging.streams import INTAKE, connect
from paybill_runtime.settings import read_secret
from sqlalchemy import TextClause

from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.incidents import INCIDENTS
from paybill_billing.subscriptions.tables import ACCOUNTS
from paybill_billing.usage.domain import billing_periods, closed_windows, usage
from paybill_billing.usage.domain.allocation import allocate
from paybill_billing.usage.domain.billing_periods import BillingPeriod, Cutoff
from paybill_billing.usage.domain.quotas import allowance_of
from paybill_billing.usage.domain.usage import Meter
from paybill_billing.usage.domain.windows import OpenWindow, window_id
from paybill_billing.usage.tables import (
    BILLING_PERIODS,
    CLOSED_WINDOWS,
    CUTOFFS_DUE,
    METERS,
    METERS_DUE,
    NEXT_CUTOFF_DUE,
    NEXT_WINDOW_DUE,
    meters_of,
)

S = TypeVar("S")

POLL_S = 0.5
CONNECT_WAIT_S = 5.0
BATCH = 64
MAX_METERS = 500
_BROKER_ERRORS = (NatsError, JetStreamError, OSError, TimeoutError)
NO_PROVIDER = "none"
UNBILLED_USAGE = "unbilled_usage"
_ENDED = "the subscription ended at its provider before this usage was reported, and its last invoice is final"


WINDOWS_DUE = DueJob(METERS, "due", "close_usage_windows")
CUTOFF_DUE = DueJob(BILLING_PERIODS, "due", "allocate_usage")


class WindowCloser:
    """Closes due windows, and allocates usage to invoices, after all usage that reached INTAKE before was counted.

    A timer would refuse usage that waited in INTAKE while this service was down.
    """

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._client: Client | None = None

    def kinds(self) -> Sequence[Kind]:
        """Returns the kinds of its jobs, which `WINDOWS_DUE` and `CUTOFF_DUE` request."""
        return [Kind(due.kind, self._run, priority=Priority.BULK) for due in (WINDOWS_DUE, CUTOFF_DUE)]

    async def _run(self, _: ClaimedJob) -> None:
        try:
            await self.tick(self._context.now())
        except _BROKER_ERRORS as error:
            await self.disconnect()
            raise RetryAfter(POLL_S, f"NATS does not answer ({reason(error)})") from error

    async def tick(self, at: datetime) -> int:
        """Allocates the usage and closes the windows that are due at `at`. Returns the number of tenants and meters."""
        times = [(await self._context.rows(query))[0][0] for query in (NEXT_CUTOFF_DUE, NEXT_WINDOW_DUE)]
        if not any(due is not None and due <= column_time(at) for due in times):
            return 0
        await self._require_empty_intake()
        return await self.close_due(at)

    async def close_due(self, at: datetime) -> int:
        """Does the work of `tick` when all usage is counted."""
        allocated = await self._each(BILLING_PERIODS, CUTOFFS_DUE, at, self._allocate)
        return allocated + await self._each(METERS, METERS_DUE, at, self._close)

    async def _require_empty_intake(self) -> None:
        """Raises RetryAfter unless everything that INTAKE holds now has been processed."""
        if self._client is None or not self._client.is_connected:
            settings = self._context.settings
            password = read_secret(settings.nats_password_file)
            self._client = await connect(settings.nats_url, settings.nats_user, password, wait_s=CONNECT_WAIT_S)
        state = (await self._client.jetstream().stream_info(INTAKE)).state
        if not state.messages:
            return
        position = (await self._context.rows(LAST_POSITION, {"stream": INTAKE}))[0][0]
        if position < state.last_seq:
            raise RetryAfter(POLL_S, "usage that reached INTAKE is not counted yet")

    async def _each(
        self, stored: Stored[S], due: TextClause, at: datetime, run: Callable[[S, datetime], Awaitable[None]]
    ) -> int:
        """Runs a function for each state that is due. Returns their number."""
        count = 0
        while rows := await self._context.rows(due, {"at": column_time(at), "batch": BATCH}):
            states = [stored.load(row.state) for row in rows]
            results = await asyncio.gather(*(run(state, at) for state in states), return_exceptions=True)
            errors = [error for error in results if isinstance(error, BaseException)]
            count += len(results) - len(errors)
            if errors:
                raise errors[0]
        return count

    async def _allocate(self, period: BillingPeriod, at: datetime) -> None:
        """Allocates the usage of a tenant to the invoice whose cutoff is due."""
        rows = await self._context.rows(meters_of(period.id, MAX_METERS))
        meters = [METERS.load(row.state) for row in rows]
        ids = {window_id(meter.id, window.start) for meter in meters for window in meter.windows}
        cause = f"timer:{BILLING_PERIODS.kind}/{period.id}"

        def decide(unit: UnitOfWork, _: DecisionContext) -> None:
            current = unit.get(BILLING_PERIODS, period.id)
            due = billing_periods.cutoff(current, at) if current is not None else None
            if current is None or due is None:
                return
            for meter in meters:
                for window in _windows_of(unit, meter.id):
                    # A window that was opened in the meantime is not loaded; its usage is after the cutoff.
                    if window_id(meter.id, window.start) in ids:
                        _allocate(unit, meter.id, window, current, due, at)
            unit.record(BILLING_PERIODS, period.id, billing_periods.reached(current, at))

        await self._context.decide(
            Origin(cause, cause, "service:billing", ""),
            decide,
            writes=[
                BILLING_PERIODS.key(period.id),
                *(METERS.key(meter.id) for meter in meters),
                *map(CLOSED_WINDOWS.key, sorted(ids)),
                INCIDENTS.key_of(UNBILLED_USAGE, _subject(period)),
            ],
            reads=[ACCOUNTS.key(period.id), ENTITLEMENTS.key(period.id)],
        )

    async def _close(self, meter: Meter, at: datetime) -> None:
        known = await load_state(self._context, BILLING_PERIODS, meter.tenant_id)
        incidents = [INCIDENTS.key_of(UNBILLED_USAGE, _subject(known))] if known is not None else []
        ids = [window_id(meter.id, window.start) for window in meter.windows if window.closes_at <= at]
        cause = f"timer:{METERS.kind}/{meter.id}"

        def decide(unit: UnitOfWork, _: DecisionContext) -> None:
            # Windows opened in the meantime are not loaded; the next batch closes them.
            closing = [
                w for w in _windows_of(unit, meter.id) if w.closes_at <= at and window_id(meter.id, w.start) in ids
            ]
            period = unit.get(BILLING_PERIODS, meter.tenant_id)
            start, final = (period.start, period.final) if period is not None else (None, False)
            for window in closing:
                _allocate(unit, meter.id, window, period, Cutoff(start, at, None, final), at)
            current = unit.get(METERS, meter.id)
            if current is None:
                return
            account = unit.get(ACCOUNTS, meter.tenant_id)
            provider = account.provider if account is not None else NO_PROVIDER
            for window in closing:
                id_ = window_id(meter.id, window.start)
                unit.record(CLOSED_WINDOWS, id_, closed_windows.close(current, window, provider))
            unit.record(METERS, meter.id, usage.advance(current, closing))

        await self._context.decide(
            Origin(cause, cause, "service:billing", ""),
            decide,
            writes=[METERS.key(meter.id), *map(CLOSED_WINDOWS.key, ids), *incidents],
            reads=[
                ACCOUNTS.key(meter.tenant_id),
                ENTITLEMENTS.key(meter.tenant_id),
                BILLING_PERIODS.key(meter.tenant_id),
            ],
        )

    async def disconnect(self) -> None:
        """Closes the connection to NATS, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(*_BROKER_ERRORS):
                await client.close()


def _windows_of(unit: UnitOfWork, meter_id: str) -> Sequence[OpenWindow]:
    meter = unit.get(METERS, meter_id)
    return meter.windows if meter is not None else ()


def _subject(period: BillingPeriod) -> str:
    return f"subscription/{period.subscription_id}"


def _unbilled(period: BillingPeriod, window: str, units: int) -> Finding:
    return Finding(
        kind=UNBILLED_USAGE,
        subject=_subject(period),
        summary=f"{units} units of {window} are on no invoice: the subscription ended before they were reported",
        evidence=(Evidence(name="window", value=window), Evidence(name="units", value=str(units))),
        tenant_id=period.id,
        command=f"paybill usage windows --tenant {period.id} --status unbilled",
    )


def _allocate(
    unit: UnitOfWork, meter_id: str, window: OpenWindow, period: BillingPeriod | None, cutoff: Cutoff, at: datetime
) -> None:
    """Allocates a window's usage, and closes the part that is to be billed; without an invoice it is an incident."""
    meter = unit.get(METERS, meter_id)
    if meter is None:
        return
    account, entitlements = unit.get(ACCOUNTS, meter.tenant_id), unit.get(ENTITLEMENTS, meter.tenant_id)
    allocated = allocate(
        meter,
        window,
        before=cutoff.before,
        until=cutoff.until,
        start=cutoff.start,
        allowance=allowance_of(entitlements, meter.meter),
        free=period is not None and cutoff.start is not None and period.is_free(cutoff.start),
    )
    provider = account.provider if account is not None else NO_PROVIDER
    for event in allocated:
        part = closed_windows.close_part(meter, window, event, provider, unbilled=_ENDED if cutoff.final else None)
        id_ = window_id(meter.id, window.start)
        unit.record(CLOSED_WINDOWS, id_, part)
        if part and cutoff.final and period is not None:
            INCIDENTS.open(unit, _unbilled(period, id_, event.quantity), at)
    unit.record(METERS, meter.id, allocated)
