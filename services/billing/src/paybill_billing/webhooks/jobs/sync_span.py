"""Span of a sync: in the trace of its first webhook, with a link to the sign-up of its tenant."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.telemetry import PROVIDER, Attributes, log_context, span

from paybill_billing.subscriptions.tables import ACCOUNTS
from paybill_billing.webhooks.domain import StaleReadError, UnknownCustomerError
from paybill_billing.webhooks.tables import SyncTask


@asynccontextmanager
async def sync_span(context: ServiceContext, task: SyncTask) -> AsyncIterator[str]:
    """Opens the span of a sync; yields its traceparent. Its log lines have the tenant."""
    tenants = sorted({owner.tenant_id for owner in task.owners.values()})
    begun = await context.journeys([ACCOUNTS.key(tenant_id) for tenant_id in tenants])
    name, links, expected = f"job {task.job.kind}", list(begun.values()), (StaleReadError, UnknownCustomerError)
    with (
        log_context(tenants[0] if tenants else "", task.traceparent or ""),
        span(
            name, task.traceparent, attributes=lambda: _attributes(task), links=links, expected=expected
        ) as traceparent,
    ):
        yield traceparent


def _attributes(task: SyncTask) -> Attributes:
    return {
        PROVIDER: task.provider,
        "paybill.job.kind": task.job.kind,
        "paybill.job.attempt": task.job.attempts + 1,
        "paybill.provider.object": task.target,
        "paybill.webhook.type": sorted(set(task.event_types)),
    }
