"""The billing providers of this installation, what each can do, and which tenant a customer of theirs is."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Path
from paybill_contracts.errors import NotFoundError
from paybill_contracts.values import Key, ProviderId, TenantId
from paybill_runtime.decisions.context import ServiceContext
from pydantic import BaseModel, Field
from sqlmodel import select

from paybill_billing.providers.port import Adopts, Connected, Lists, Meters, Portal, Redelivers
from paybill_billing.reading import Reader, document
from paybill_billing.subscriptions.domain.accounts import Status
from paybill_billing.subscriptions.tables import ACCOUNTS, AccountRow


class Capability(StrEnum):
    """What only some providers can do.

    MESSAGES: it sends webhooks. REDELIVERS: it says which of them nobody took. LISTS: its subscriptions can be compared
    with ours. ADOPTS: a customer that it has becomes a tenant. METERS: it bills usage. PORTAL: it has pages for
    customers.
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
    default: Annotated[bool, Field(description="Whether a tenant that does not say how pays here.")]
    capabilities: list[Capability]


class CustomerView(BaseModel):
    """Which tenant a customer of a provider is."""

    provider: Key
    customer: ProviderId
    tenant_id: TenantId
    status: Status


class UnknownCustomerError(NotFoundError):
    """No account here has it."""

    code = "unknown_customer"


def router(context: ServiceContext, connected: Mapping[str, Connected]) -> APIRouter:
    """The routes, on this edge. connected: the providers."""
    routes = APIRouter(prefix="/v1/providers", tags=["providers"])

    @routes.get("")
    async def show_providers(_: Reader) -> list[ProviderView]:
        """The providers of this installation, in the order of their names."""
        default = context.settings.default_provider
        return [
            ProviderView(name=name, default=name == default, capabilities=capabilities(one))
            for name, one in sorted(connected.items())
        ]

    @routes.get("/{provider}/customers/{customer}")
    async def show_customer(
        provider: Annotated[Key, Path(description="The provider's name, such as `stripe`.")],
        customer: Annotated[ProviderId, Path(description="The customer's id there.")],
        _: Reader,
    ) -> CustomerView:
        """Which tenant a customer is, as soon as its account is open. The provider is not asked."""
        rows = await context.rows(select(document(AccountRow)).where(AccountRow.customer == f"{provider}/{customer}"))
        if not rows:
            raise UnknownCustomerError(f"no account here is the customer {customer} of {provider}")
        account = ACCOUNTS.load(rows[0].state)
        return CustomerView(provider=provider, customer=customer, tenant_id=account.id, status=account.status)

    return routes


def capabilities(one: Connected) -> list[Capability]:
    """What this provider can do beside what every one does."""
    ports: Mapping[Capability, type[object]] = {
        Capability.REDELIVERS: Redelivers,
        Capability.LISTS: Lists,
        Capability.ADOPTS: Adopts,
        Capability.METERS: Meters,
        Capability.PORTAL: Portal,
    }
    sends = [Capability.MESSAGES] if one.inbound is not None else []
    return sends + [name for name, port in ports.items() if isinstance(one.provider, port)]
