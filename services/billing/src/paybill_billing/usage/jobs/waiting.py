"""Usage of a tenant before an effect ends or changes its subscription: what is not reported, and the wait for it."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.effects import Job, Outcome, Refused
from paybill_runtime.jobs.kinds import RetryAfter

from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.usage.domain import billing_periods, closed_windows, usage
from paybill_billing.usage.domain.allocation import allocate
from paybill_billing.usage.domain.closed_windows import Status
from paybill_billing.usage.domain.quotas import allowance_of, metered_features
from paybill_billing.usage.domain.usage import Meter
from paybill_billing.usage.domain.windows import window_id
from paybill_billing.usage.tables import BILLING_PERIODS, CLOSED_WINDOWS, METERS

POLL_S = 0.3


async def usage_reported(
    job: Job[Any], tenant_id: str, provider: str, cause: str, subscription_id: str | None = None
) -> AsyncIterator[Outcome]:
    """Requests a cutoff of the tenant's usage for the change `cause`, and waits until it is reported.

    subscription_id: the one that changes; None for all of the tenant. Raises RetryAfter while it is not reported, and
    Refused when the provider refused a report: its invoice would lack usage.
    """
    period = await job.state(BILLING_PERIODS, tenant_id)
    if period is None or period.ended or subscription_id not in {None, period.subscription_id}:
        return
    meters = await _metered(job, tenant_id, provider)
    if not meters:
        return
    if cause not in period.done:
        if all(cause != waiting for waiting, _ in period.requested):
            yield _request(tenant_id, cause, job.now())
        raise RetryAfter(POLL_S, "the usage until now is being allocated to the invoice")
    await _require_reported(job, meters)


async def unreported_usage(job: Job[Any], tenant_id: str, provider: str, subscription_id: str) -> Mapping[str, int]:
    """Returns the units that `usage_reported` would report now, by the provider's meter; it reports nothing.

    Raises RetryAfter while a report is on its way, and Refused when the provider refused one.
    """
    period = await job.state(BILLING_PERIODS, tenant_id)
    if period is None or period.ended or period.subscription_id != subscription_id:
        return {}
    meters = await _metered(job, tenant_id, provider)
    if meters and period.requested:
        raise RetryAfter(POLL_S, "the usage until now is being allocated to the invoice")
    await _require_reported(job, meters)
    entitlements, now = await job.state(ENTITLEMENTS, tenant_id), job.now()
    units = Counter[str]()
    for meter in meters:
        allowance = allowance_of(entitlements, meter.meter)
        for window in meter.windows:
            for allocated in allocate(
                meter,
                window,
                before=None,
                until=now,
                start=period.start,
                allowance=allowance,
                free=period.is_free(period.start),
            ):
                if closed_windows.close_part(meter, window, allocated, provider):
                    units[window.provider_meters[provider]] += allocated.quantity
    return units


async def _require_reported(job: Job[Any], meters: list[Meter]) -> None:
    """Raises RetryAfter while a part of an open window is being reported, and Refused when its report was refused."""
    for meter in meters:
        for window in meter.windows:
            reported = await job.state(CLOSED_WINDOWS, window_id(meter.id, window.start))
            if reported is not None and reported.status is Status.FAILED:
                raise Refused(
                    f"the usage of {reported.id} is not on the invoice, because the provider refused its report: "
                    f"{reported.failure}; remove the cause, and run: paybill usage report {reported.id}"
                )
            if reported is not None and reported.status is Status.DUE:
                raise RetryAfter(POLL_S, f"the usage of {reported.id} is being reported")


async def _metered(job: Job[Any], tenant_id: str, provider: str) -> list[Meter]:
    """Returns the tenant's meters with usage in open windows that the provider bills."""
    entitlements = await job.state(ENTITLEMENTS, tenant_id)
    found = []
    for name in sorted({feature.meter for feature in metered_features(entitlements)}):
        meter = await job.state(METERS, usage.meter_id(tenant_id, name))
        if meter is not None and any(provider in window.provider_meters for window in meter.windows):
            found.append(meter)
    return found


def _request(tenant_id: str, cause: str, now: datetime) -> Outcome:
    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        period = unit.get(BILLING_PERIODS, tenant_id)
        if period is not None:
            unit.record(BILLING_PERIODS, tenant_id, billing_periods.request_cutoff(period, cause, now))

    return Outcome(decide, writes=[BILLING_PERIODS.key(tenant_id)])
