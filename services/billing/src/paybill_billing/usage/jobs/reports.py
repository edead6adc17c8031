"""Reports the parts of usage windows to the provider, and fetches its counts."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from paybill_contracts.envelope import Origin
from paybill_contracts.metering import (
    UsageCountRequested,
    UsagePartClosed,
    UsageReportRequested,
    UsageWindowClosed,
)
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import single_line
from paybill_runtime.jobs.effects import Job, JobRegistry, Outcome, Refused

from paybill_billing.providers.errors import provider_errors
from paybill_billing.providers.port import MeterReading, Providers, UsageReporter
from paybill_billing.providers.sync_queue import EFFECTS
from paybill_billing.subscriptions.tables import ACCOUNTS
from paybill_billing.usage.domain import closed_windows, publishers
from paybill_billing.usage.domain.closed_windows import ClosedWindow, Part, existing
from paybill_billing.usage.tables import CLOSED_WINDOWS, PUBLISHERS

JOBS = JobRegistry()
LOCKS = ("usage",)
"""Reports of a tenant run in order, and beside its other effects: a change waits until its usage is reported."""


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
    """Reports the due parts of a window to the provider, unless the provider has counted them already.

    Providers forget idempotency keys (Stripe after a day), so the key alone cannot prevent a late attempt from
    counting twice.
    """
    window = await _window(job)
    due = window.due_parts
    for number, part in enumerate(due, start=1):
        with provider_errors():
            customer = await _report(job, providers, window, part)
        yield _reported(window.id, part, customer, last=number == len(due))


async def _report(job: Job[Any], providers: Providers, window: ClosedWindow, part: Part) -> str:
    """Reports a part, and returns the customer at the provider. Raises Refused when another program reports, too."""
    meters, customer = await _meters_and_customer(job, providers, window)
    provider_meter = window.provider_meter or ""
    counted = await meters.reported(provider_meter, customer, *_counted_time(window, part)) - part.before
    # Counts lag, so that even the units of the parts before may be missing.
    if counted > 0 and counted != part.quantity:
        raise Refused(
            f"{window.provider} has counted {counted} at the time of this usage, but {part.quantity} was used and "
            f"nothing was reported yet: find the other program that reports to its meter {provider_meter}"
        )
    if counted != part.quantity:
        reading = MeterReading(customer, provider_meter, part.quantity, part.at)
        await meters.report(reading, window.report_key(part))
    return customer


def _counted_time(window: ClosedWindow, part: Part) -> tuple[datetime, datetime]:
    """Returns the time in which the provider counts the part: a minute, or a window that is reported as a whole."""
    return part.minute if part.number else (window.start, window.end)


def _reported(id_: str, part: Part, customer: str, *, last: bool) -> Outcome:
    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        current = existing(unit.get(CLOSED_WINDOWS, id_), id_)
        unit.record(CLOSED_WINDOWS, id_, closed_windows.reported(current, part, customer))

    return Outcome(decide, writes=[CLOSED_WINDOWS.key(id_)], last=last)


JOBS.effect(UsagePartClosed, attempts=8, failed=_failed, locks=LOCKS, limit=EFFECTS)(report_usage)
JOBS.effect(UsageWindowClosed, attempts=8, failed=_failed, locks=LOCKS, limit=EFFECTS)(report_usage)
JOBS.effect(UsageReportRequested, attempts=8, failed=_failed, locks=LOCKS, limit=EFFECTS)(report_usage)


def _count_failed(job: Job[UsageCountRequested], why: str) -> Outcome:
    return _count_outcome(job.event.window_id, None, single_line(why), last=True)


@JOBS.effect(UsageCountRequested, attempts=3, failed=_count_failed, locks=LOCKS, limit=EFFECTS)
async def count_at_provider(job: Job[UsageCountRequested], providers: Providers) -> AsyncIterator[Outcome]:
    """Fetches the provider's count of a window."""
    window = await _window(job)
    if window.provider_meter is None:
        return
    counted = 0
    with provider_errors():
        meters, customer = await _meters_and_customer(job, providers, window)
        for part in window.reported_parts:
            total = await meters.reported(window.provider_meter, customer, *_counted_time(window, part)) - part.before
            # Other parts may have the same minute.
            counted += min(total, part.quantity) if part.number else total
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
