"""Closes usage windows when they are due, reports their values to the provider, and fetches its counts."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from paybill_contracts.envelope import Origin
from paybill_contracts.metering import UsageCountRequested, UsageReportRequested, UsageWindowClosed
from paybill_runtime.decisions.aggregates import column_time
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import reason, single_line
from paybill_runtime.jobs.effects import DueJob, Job, JobRegistry, Outcome, Refused
from paybill_runtime.jobs.kinds import ClaimedJob, Kind, RetryAfter
from paybill_runtime.messaging.inbox import LAST_POSITION
from paybill_runtime.messaging.streams import INTAKE, connect
from paybill_runtime.settings import read_secret

from paybill_billing.providers.errors import provider_errors
from paybill_billing.providers.port import MeterReading, Providers, UsageReporter
from paybill_billing.providers.sync_queue import EFFECTS
from paybill_billing.subscriptions.tables import ACCOUNTS
from paybill_billing.usage.domain import closed_windows, publishers, usage
from paybill_billing.usage.domain.closed_windows import ClosedWindow, Status, existing
from paybill_billing.usage.domain.usage import Meter
from paybill_billing.usage.domain.windows import window_id
from paybill_billing.usage.tables import (
    CLOSED_WINDOWS,
    METERS,
    METERS_DUE,
    NEXT_WINDOW_DUE,
    PUBLISHERS,
)

log = logging.getLogger(__name__)
JOBS = JobRegistry()

POLL_S = 0.5
CONNECT_WAIT_S = 5.0
BATCH = 64
_BROKER_ERRORS = (NatsError, JetStreamError, OSError, TimeoutError)


WINDOWS_DUE = DueJob(METERS, "due", "close_usage_windows")


class WindowCloser:
    """Closes due windows after all usage that reached INTAKE before has been counted.

    A timer would refuse usage that waited in INTAKE while this service was down.
    """

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._client: Client | None = None

    def kind(self) -> Kind:
        """Returns the kind of its job, which `WINDOWS_DUE` requests."""
        return Kind(WINDOWS_DUE.kind, self._run, priority=Priority.BULK)

    async def _run(self, _: ClaimedJob) -> None:
        try:
            await self.tick(self._context.now())
        except _BROKER_ERRORS as error:
            await self.disconnect()
            raise RetryAfter(POLL_S, f"NATS does not answer ({reason(error)})") from error

    async def tick(self, at: datetime) -> int:
        """Closes the windows that are due at `at`. Returns the number of meters."""
        due = (await self._context.rows(NEXT_WINDOW_DUE))[0][0]
        if due is None or due > column_time(at):
            return 0
        await self._require_empty_intake()
        closed = 0
        while rows := await self._context.rows(METERS_DUE, {"at": column_time(at), "batch": BATCH}):
            meters = [METERS.load(row.state) for row in rows]
            results = await asyncio.gather(*(self._close(meter, at) for meter in meters), return_exceptions=True)
            errors = [error for error in results if isinstance(error, BaseException)]
            closed += len(results) - len(errors)
            if errors:
                raise errors[0]
        return closed

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

    async def _close(self, meter: Meter, at: datetime) -> None:
        ids = [window_id(meter.id, window.start) for window in meter.windows if window.closes_at <= at]
        cause = f"timer:{METERS.kind}/{meter.id}"

        def decide(unit: UnitOfWork, _: DecisionContext) -> None:
            current = unit.get(METERS, meter.id)
            if current is None:
                return
            # Windows opened in the meantime are not loaded; the next batch closes them.
            closing = [w for w in current.windows if w.closes_at <= at and window_id(current.id, w.start) in ids]
            unit.record(METERS, current.id, usage.advance(current, closing))
            account = unit.get(ACCOUNTS, current.tenant_id)
            for window in closing:
                id_ = window_id(current.id, window.start)
                unit.record(CLOSED_WINDOWS, id_, closed_windows.close(current, window, account))

        await self._context.decide(
            Origin(cause, cause, "service:billing", ""),
            decide,
            writes=[METERS.key(meter.id), *map(CLOSED_WINDOWS.key, ids)],
            reads=[ACCOUNTS.key(meter.tenant_id)],
        )

    async def disconnect(self) -> None:
        """Closes the connection to NATS, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(*_BROKER_ERRORS):
                await client.close()


async def configure_publishers(context: ServiceContext) -> None:
    """Records the publishers of the publishers file at the start."""
    grants = context.settings.publisher_grants()
    start = Origin("start", "start", "service:billing", "")

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        current = unit.get(PUBLISHERS, publishers.PUBLISHERS)
        unit.record(PUBLISHERS, publishers.PUBLISHERS, publishers.allow(current, grants))

    await context.decide(start, decide, writes=[PUBLISHERS.key(publishers.PUBLISHERS)])


def _failed(job: Job[Any], why: str) -> Outcome:
    id_, line = job.event.window_id, single_line(why)

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        unit.record(
            CLOSED_WINDOWS, id_, closed_windows.report_failed(existing(unit.get(CLOSED_WINDOWS, id_), id_), line)
        )

    return Outcome(decide, writes=[CLOSED_WINDOWS.key(id_)])


async def report_usage(job: Job[Any], providers: Providers) -> AsyncIterator[Outcome]:
    """Reports a window's value to the provider, unless the provider has counted it already.

    Providers forget idempotency keys (Stripe after a day), so the key alone cannot prevent a late attempt from
    counting twice.
    """
    id_ = job.event.window_id
    window = await _window(job)
    if window.status is not Status.DUE or window.provider_meter is None:
        return
    with provider_errors():
        meters, customer = await _meters_and_customer(job, providers, window)
        counted = await meters.reported(window.provider_meter, customer, window.start, window.end)
        if counted not in {0, window.value}:
            raise Refused(
                f"{window.provider} has counted {counted} in this window, but {window.value} was used and nothing was "
                f"reported yet: find the other program that reports to its meter {window.provider_meter}"
            )
        if counted != window.value:
            reading = MeterReading(customer, window.provider_meter, window.value, window.at)
            await meters.report(reading, window.report_key)

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        current = existing(unit.get(CLOSED_WINDOWS, id_), id_)
        unit.record(CLOSED_WINDOWS, id_, closed_windows.reported(current, customer))

    yield Outcome(decide, writes=[CLOSED_WINDOWS.key(id_)], last=True)


JOBS.effect(UsageWindowClosed, attempts=8, failed=_failed, limit=EFFECTS)(report_usage)
JOBS.effect(UsageReportRequested, attempts=8, failed=_failed, limit=EFFECTS)(report_usage)


def _count_failed(job: Job[UsageCountRequested], why: str) -> Outcome:
    return _count_outcome(job.event.window_id, None, single_line(why))


@JOBS.effect(UsageCountRequested, attempts=3, failed=_count_failed, limit=EFFECTS)
async def count_at_provider(job: Job[UsageCountRequested], providers: Providers) -> AsyncIterator[Outcome]:
    """Fetches the provider's count of a window."""
    window = await _window(job)
    if window.provider_meter is None:
        return
    with provider_errors():
        meters, customer = await _meters_and_customer(job, providers, window)
        counted = await meters.reported(window.provider_meter, customer, window.start, window.end)
    yield _count_outcome(window.id, counted, None, last=True)


def _count_outcome(id_: str, quantity: int | None, why: str | None, *, last: bool = False) -> Outcome:
    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        current = existing(unit.get(CLOSED_WINDOWS, id_), id_)
        unit.record(CLOSED_WINDOWS, id_, closed_windows.record_count(current, quantity, why))

    return Outcome(decide, writes=[CLOSED_WINDOWS.key(id_)], last=last)


async def _window(job: Job[Any]) -> ClosedWindow:
    """Returns the window that the job's fact refers to."""
    window = await job.state(CLOSED_WINDOWS, job.event.window_id)
    return existing(window, job.event.window_id)


async def _meters_and_customer(job: Job[Any], providers: Providers, window: ClosedWindow) -> tuple[UsageReporter, str]:
    """Returns the provider's meters and the tenant's customer id there. Raises Refused when either is missing."""
    provider = providers[window.provider]
    if not isinstance(provider, UsageReporter):
        raise Refused(f"the provider {window.provider} bills no usage; remove it from `provider_meters`")
    account = await job.state(ACCOUNTS, window.tenant_id)
    if account is None or account.customer is None or account.provider != window.provider:
        raise Refused(f"{window.tenant_id} is not a customer of {window.provider}")
    return provider, account.customer
