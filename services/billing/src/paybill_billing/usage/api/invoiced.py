"""HTTP route that compares reported usage with the usage on the provider's invoices."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter
from paybill_contracts.errors import ConflictError
from paybill_contracts.values import TenantId
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.problems import Problem
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_billing.http import PROVIDER_PROBLEMS, Viewer
from paybill_billing.providers.port import (
    ProviderConnection,
    ProviderRefusedError,
    ProviderUnavailableError,
    UsageInvoices,
)
from paybill_billing.subscriptions.tables import account_of
from paybill_billing.usage.domain.billing_periods import open_from
from paybill_billing.usage.domain.invoices import compare
from paybill_billing.usage.tables import BILLING_PERIODS, CLOSED_WINDOWS, windows_in_parts

TIMEOUT_S = 20.0
MAX_CONCURRENT = 2
"""Requests at the same time: they must not use up the provider's rate limit, which subscription syncs need."""
MAX_WINDOWS = 10_000
SHOWN = timedelta(days=100)
"""The age of the invoices that are compared: three periods of a month."""


class NoInvoicedUsageError(ConflictError):
    """The provider does not show the usage on its invoices, or the account is not open yet."""

    code = "no_invoiced_usage"


class InvoicedUsageView(BaseModel):
    """Usage of a meter in the period of an invoice."""

    meter: Annotated[str, Field(description="The provider's name for it.")]
    start: datetime
    end: datetime
    reported: Annotated[int, Field(description="Units that were reported for the period.")]
    invoiced: Annotated[int, Field(description="Units on the invoice.")]
    invoice: Annotated[str | None, Field(description="Null for usage that is on no invoice, and will be on none.")]
    final: Annotated[bool, Field(description="False for a draft, whose usage still grows.")]
    differs: bool


class InvoicedUsagePage(BaseModel):
    """The comparison of a tenant's usage with its invoices of the last 100 days."""

    periods: list[InvoicedUsageView]


def router(context: ServiceContext, connected: Mapping[str, ProviderConnection]) -> APIRouter:
    """Returns the route. connected: the providers by name."""
    routes = Router(prefix="/v1/tenants/{tenant_id}/usage", tags=["usage"], problems=PROVIDER_PROBLEMS)
    concurrency = asyncio.Semaphore(MAX_CONCURRENT)

    @routes.get("/invoiced")
    async def show_invoiced(tenant_id: TenantId, _: Viewer) -> InvoicedUsagePage:
        """Compares reported usage with the lines of the provider's invoices. Nothing is recorded.

        Refused with `no_invoiced_usage`; 502 `provider_refused`, 503 `provider_away`.
        """
        account = await account_of(context, tenant_id)
        connection = connected.get(account.provider)
        if connection is None:
            raise Problem(503, "provider_away", f"the provider {account.provider} is not configured here")
        if not isinstance(connection.provider, UsageInvoices) or account.customer is None:
            raise NoInvoicedUsageError(f"{account.provider} shows no usage on invoices of {tenant_id}")
        since = context.now() - SHOWN
        try:
            async with asyncio.timeout(TIMEOUT_S), concurrency:
                lines = await connection.provider.invoiced(account.customer, since)
        except TimeoutError as error:
            raise Problem(503, "provider_away", f"{account.provider} did not answer in {TIMEOUT_S:.0f} s") from error
        except ProviderUnavailableError as error:
            raise Problem(503, "provider_away", str(error)) from error
        except ProviderRefusedError as error:
            raise Problem(502, "provider_refused", f"{account.provider} refused to list invoices: {error}") from error
        rows = await context.rows(windows_in_parts(tenant_id, since, MAX_WINDOWS))
        period = await load_state(context, BILLING_PERIODS, tenant_id)
        ended = period is not None and period.final
        compared = compare(
            [CLOSED_WINDOWS.load(row.state) for row in rows], lines, ended=ended, open_from=open_from(period)
        )
        names = InvoicedUsageView.model_fields
        return InvoicedUsagePage(
            periods=[InvoicedUsageView(**{name: getattr(each, name) for name in names}) for each in compared]
        )

    return routes
