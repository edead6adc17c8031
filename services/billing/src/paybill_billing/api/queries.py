"""What may be looked at: accounts and subscriptions."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from paybill_contracts.billing import AccessState, Subscription
from paybill_contracts.catalogue import MeteredFeature
from paybill_contracts.values import SubscriptionId, TenantId
from paybill_runtime.auth import Role
from paybill_runtime.http import Caller, Edge, caller
from paybill_runtime.state import StateRow
from pydantic import BaseModel, Field
from sqlalchemy import Label, Text, cast
from sqlmodel import col, select

from paybill_billing.api.entitlements import EntitlementsView
from paybill_billing.domain import accounts, entitlements
from paybill_billing.domain.accounts import Account, UnknownTenantError
from paybill_billing.tables import (
    ACCOUNTS,
    ENTITLEMENTS,
    METERS,
    SUBSCRIPTIONS,
    AccountRow,
    EntitlementsRow,
    MeterRow,
    SubscriptionRow,
)

MAX_PAGE = 200

Reader = Annotated[Caller, Depends(caller(Role.VIEWER, "billing:read"))]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most.")]


class UsageView(BaseModel):
    """How much was used of one thing. `included` costs nothing extra; null when the plan does not count it any more."""

    meter: str
    total: int
    records: int
    included: int | None


class AccountView(BaseModel):
    """A tenant as a customer. Its address is not shown: it is sealed in the log."""

    tenant_id: TenantId
    status: accounts.Status
    plan: Annotated[str, Field(description="What it signed up for; its subscription says what is in force.")]
    plan_version: int
    provider: str
    customer: str | None
    adopts: Annotated[str | None, Field(description="The customer that it was at the provider before it came here.")]
    checkout_url: Annotated[str | None, Field(description="Where to pay; null until the account is open.")]
    failure: Annotated[str | None, Field(description="Why the provider would not open the account.")]
    leaving: bool
    subscriptions: list[Subscription]
    entitlements: EntitlementsView | None
    usage: list[UsageView]


class SubscriptionPage(BaseModel):
    """Subscriptions in the order of their ids."""

    subscriptions: list[Subscription]
    next: Annotated[SubscriptionId | None, Field(description="Send it as `after` for the next page; null on the last.")]


def _document(row: type[StateRow]) -> Label[str]:
    """The state as text, which is what `Stored.load` reads."""
    return cast(col(row.state), Text).label("state")


def router(edge: Edge) -> APIRouter:
    """The routes, on this edge."""
    routes = APIRouter(prefix="/v1", tags=["billing"])

    async def entitlements_of(tenant_id: str) -> entitlements.Entitlements | None:
        rows = await edge.rows(select(_document(EntitlementsRow)).where(EntitlementsRow.id == tenant_id))
        return ENTITLEMENTS.load(rows[0].state) if rows else None

    async def account_of(tenant_id: str) -> Account:
        rows = await edge.rows(select(_document(AccountRow)).where(AccountRow.id == tenant_id))
        if not rows:
            raise UnknownTenantError(f"billing knows no tenant {tenant_id}")
        return ACCOUNTS.load(rows[0].state)

    @routes.get("/tenants/{tenant_id}/account")
    async def show_account(tenant_id: TenantId, _: Reader) -> AccountView:
        """A tenant as a customer: where it pays, what it subscribed to, what that gives it, and what it used."""
        account = await account_of(tenant_id)
        held = await entitlements_of(tenant_id)
        standings = select(_document(SubscriptionRow)).where(SubscriptionRow.tenant_id == tenant_id)
        meters = select(_document(MeterRow)).where(MeterRow.tenant_id == tenant_id)
        included = {f.meter: f.included for f in held.features if isinstance(f, MeteredFeature)} if held else {}
        return AccountView(
            tenant_id=account.id,
            status=account.status,
            plan=account.plan,
            plan_version=account.plan_version,
            provider=account.provider,
            customer=account.customer,
            adopts=account.adopts,
            checkout_url=account.checkout_url,
            failure=account.failure,
            leaving=account.leaving,
            subscriptions=[
                SUBSCRIPTIONS.load(row.state).subscription
                for row in await edge.rows(standings.order_by(SubscriptionRow.id).limit(MAX_PAGE))
            ],
            entitlements=EntitlementsView.of(held) if held is not None else None,
            usage=[
                UsageView(
                    meter=meter.meter, total=meter.total, records=meter.records, included=included.get(meter.meter)
                )
                for row in await edge.rows(meters.order_by(MeterRow.id).limit(MAX_PAGE))
                for meter in [METERS.load(row.state)]
            ],
        )

    @routes.get("/subscriptions")
    async def show_subscriptions(
        _: Reader,
        access: Annotated[AccessState | None, Query(description="Only those that give this access.")] = None,
        after: Annotated[
            SubscriptionId | None, Query(description="Only ids behind this one: `next` of the page before.")
        ] = None,
        limit: Limit = 50,
    ) -> SubscriptionPage:
        """Subscriptions in the order of their ids, a page at a time."""
        wanted = select(_document(SubscriptionRow)).order_by(SubscriptionRow.id).limit(limit + 1)
        if access is not None:
            wanted = wanted.where(SubscriptionRow.access == access)
        if after is not None:
            wanted = wanted.where(col(SubscriptionRow.id) > after)
        found = [SUBSCRIPTIONS.load(row.state) for row in await edge.rows(wanted)]
        page = found[:limit]
        return SubscriptionPage(
            subscriptions=[standing.subscription for standing in page],
            next=page[-1].id if len(found) > limit else None,
        )

    return routes
