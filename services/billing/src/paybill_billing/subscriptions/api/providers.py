"""HTTP routes of the billing providers: their capabilities, and the tenant of a customer."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Path
from paybill_contracts.errors import NotFoundError
from paybill_contracts.values import Key, ProviderId, TenantId
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_billing.http import Viewer
from paybill_billing.providers.port import (
    CustomerAdopter,
    CustomerPortal,
    ProviderConnection,
    RedeliverySource,
    SubscriptionLister,
    UsageReporter,
)
from paybill_billing.subscriptions.domain.accounts import Status
from paybill_billing.subscriptions.tables import ACCOUNTS, account_of_customer


class Capability(StrEnum):
    """An optional capability of a provider.

    MESSAGES: it sends webhooks. REDELIVERS: it lists undelivered webhooks. LISTS: its subscriptions can be compared
    with ours. ADOPTS: an existing customer can become a tenant. METERS: it bills usage. PORTAL: it has a customer
    portal.
    """

    MESSAGES = "messages"
    REDELIVERS = "redelivers"
    LISTS = "lists"
    ADOPTS = "adopts"
    METERS = "meters"
    PORTAL = "portal"


class ProviderView(BaseModel):
    """A provider that accounts can be opened at."""

    name: Key
    default: Annotated[bool, Field(description="True for the provider of tenants that choose none.")]
    capabilities: list[Capability]


class CustomerView(BaseModel):
    """The tenant of a provider's customer."""

    provider: Key
    customer: ProviderId
    tenant_id: TenantId
    status: Status


class UnknownCustomerError(NotFoundError):
    """Raised when no account has the customer."""

    code = "unknown_customer"


def router(context: ServiceContext, connected: Mapping[str, ProviderConnection]) -> APIRouter:
    """Returns the routes of the providers. connected: the providers by name."""
    routes = Router(prefix="/v1/providers", tags=["providers"])

    @routes.get("")
    async def show_providers(_: Viewer) -> list[ProviderView]:
        """Returns the providers of this installation in the order of their names."""
        default = context.settings.default_provider
        return [
            ProviderView(name=name, default=name == default, capabilities=capabilities(connection))
            for name, connection in sorted(connected.items())
        ]

    @routes.get("/{provider}/customers/{customer}")
    async def show_customer(
        provider: Annotated[Key, Path(description="The provider's name, such as `stripe`.")],
        customer: Annotated[ProviderId, Path(description="The customer's id there.")],
        _: Viewer,
    ) -> CustomerView:
        """Returns the tenant of a customer whose account is open. It does not call the provider."""
        rows = await context.rows(account_of_customer(provider, customer))
        if not rows:
            raise UnknownCustomerError(f"no account has the customer {customer} of {provider}")
        account = ACCOUNTS.load(rows[0].state)
        return CustomerView(provider=provider, customer=customer, tenant_id=account.id, status=account.status)

    return routes


def capabilities(connection: ProviderConnection) -> list[Capability]:
    """Returns the optional capabilities of a provider."""
    ports: Mapping[Capability, type[object]] = {
        Capability.REDELIVERS: RedeliverySource,
        Capability.LISTS: SubscriptionLister,
        Capability.ADOPTS: CustomerAdopter,
        Capability.METERS: UsageReporter,
        Capability.PORTAL: CustomerPortal,
    }
    messages = [Capability.MESSAGES] if connection.inbound is not None else []
    return messages + [name for name, port in ports.items() if isinstance(connection.provider, port)]
