"""HTTP route to the provider's customer portal."""

import asyncio
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Response
from paybill_contracts.errors import ConflictError
from paybill_contracts.values import TenantId, Url
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.problems import Problem
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_billing.http import PROVIDER_PROBLEMS, OperatorAtProvider
from paybill_billing.providers.port import (
    CustomerPortal,
    ProviderConnection,
    ProviderRefusedError,
    ProviderUnavailableError,
)
from paybill_billing.subscriptions.tables import account_of

TIMEOUT_S = 8.0
MAX_CONCURRENT = 4
"""Portal requests at the same time: they must not use up the provider's rate limit, which subscription syncs need."""


class NoPortalError(ConflictError):
    """Raised when the provider has no customer portal, or the account is not open yet."""

    code = "no_portal"


class PortalView(BaseModel):
    """A link to the customer portal. It replaces a login: send it to the customer only, and do not store it."""

    url: Annotated[Url, Field(description="Expires soon; the provider sets the time.")]


def router(context: ServiceContext, connected: Mapping[str, ProviderConnection]) -> APIRouter:
    """Returns the route of the customer portal. connected: the providers by name."""
    routes = Router(prefix="/v1", tags=["portal"], problems=PROVIDER_PROBLEMS)
    concurrency = asyncio.Semaphore(MAX_CONCURRENT)

    @routes.post("/tenants/{tenant_id}/portal")
    async def open_portal(tenant_id: TenantId, _: OperatorAtProvider, response: Response) -> PortalView:
        """Creates a link to the customer portal. Nothing is recorded, and each call creates another link.

        Refused with `no_portal`; 502 `provider_refused`, 503 `provider_away` when the provider does not answer in time.
        """
        account = await account_of(context, tenant_id)
        connection = connected.get(account.provider)
        if connection is None:
            raise Problem(503, "provider_away", f"the provider {account.provider} is not configured here")
        if not isinstance(connection.provider, CustomerPortal):
            raise NoPortalError(f"{account.provider} has no customer portal")
        if account.customer is None:
            raise NoPortalError(f"the account of {tenant_id} is not open yet")
        try:
            async with asyncio.timeout(TIMEOUT_S), concurrency:
                url = await connection.provider.portal(account.customer, context.settings.checkout_return_url)
        except TimeoutError as error:
            raise Problem(503, "provider_away", f"{account.provider} did not answer in {TIMEOUT_S:.0f} s") from error
        except ProviderUnavailableError as error:
            raise Problem(503, "provider_away", str(error)) from error
        except ProviderRefusedError as error:
            raise Problem(502, "provider_refused", f"{account.provider} refused to create a link: {error}") from error
        response.headers["Cache-Control"] = "no-store"
        return PortalView(url=url)

    return routes
