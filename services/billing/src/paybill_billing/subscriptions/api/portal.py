"""A link to the provider's own pages, where a customer manages what it bought."""

import asyncio
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Response
from paybill_contracts.errors import ConflictError
from paybill_contracts.values import TenantId, Url
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.problems import Problem
from pydantic import BaseModel, Field

from paybill_billing.providers.port import Connected, Portal, ProviderAwayError, ProviderRefusedError
from paybill_billing.reading import Writer, account_of

TIMEOUT_S = 8.0
AT_ONCE = 4
"""People wait for these links; what follows subscriptions needs the provider's pace more."""


class NoPortalError(ConflictError):
    """The provider has no pages for customers, or the customer is not there yet."""

    code = "no_portal"


class PortalView(BaseModel):
    """Where the customer goes. Whoever has the link can use it: hand it to nobody else, and keep it nowhere."""

    url: Annotated[Url, Field(description="Good for a short while, as the provider says how long.")]


def router(context: ServiceContext, connected: Mapping[str, Connected]) -> APIRouter:
    """The route, on this edge. connected: the providers."""
    routes = APIRouter(prefix="/v1", tags=["portal"])
    places = asyncio.Semaphore(AT_ONCE)

    @routes.post("/tenants/{tenant_id}/portal")
    async def open_portal(tenant_id: TenantId, _: Writer, response: Response) -> PortalView:
        """A link to the provider's pages for this customer; nothing is recorded, and each call makes another.

        Refused with `no_portal`; 502 `provider_refused`, 503 `provider_away` when the provider does not answer in time.
        """
        account = await account_of(context, tenant_id)
        one = connected.get(account.provider)
        if one is None:
            raise Problem(503, "provider_away", f"the provider {account.provider} is not configured here")
        if not isinstance(one.provider, Portal):
            raise NoPortalError(f"{account.provider} has no pages for customers")
        if account.customer is None:
            raise NoPortalError(f"the account of {tenant_id} is not open yet")
        try:
            async with asyncio.timeout(TIMEOUT_S), places:
                url = await one.provider.portal(account.customer, context.settings.checkout_return_url)
        except TimeoutError as error:
            raise Problem(503, "provider_away", f"{account.provider} did not answer in {TIMEOUT_S:.0f} s") from error
        except ProviderAwayError as error:
            raise Problem(503, "provider_away", str(error)) from error
        except ProviderRefusedError as error:
            raise Problem(502, "provider_refused", f"{account.provider} gives no link: {error}") from error
        response.headers["Cache-Control"] = "no-store"
        return PortalView(url=url)

    return routes
