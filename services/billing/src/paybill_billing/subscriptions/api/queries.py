"""What may be looked at: accounts and subscriptions."""

from typing import Annotated

from fastapi import APIRouter, Query
from paybill_contracts.billing import AccessState, Subscription
from paybill_contracts.catalogue import MeteredFeature
from paybill_contracts.values import SubscriptionId, TenantId
from paybill_runtime.decisions.context import ServiceContext
from pydantic import BaseModel, Field
from sqlmodel import select

from paybill_billing.entitlements.api import EntitlementsView
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.reading import MAX_PAGE, Limit, Reader, account_of, document, found, page
from paybill_billing.subscriptions.domain import accounts
from paybill_billing.subscriptions.tables import SUBSCRIPTIONS, SubscriptionRow
from paybill_billing.usage.tables import METERS, MeterRow


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


def router(context: ServiceContext) -> APIRouter:
    """The routes, on this edge."""
    routes = APIRouter(prefix="/v1", tags=["billing"])

    @routes.get("/tenants/{tenant_id}/account")
    async def show_account(tenant_id: TenantId, _: Reader) -> AccountView:
        """A tenant as a customer: where it pays, what it subscribed to, what that gives it, and what it used."""
        account = await account_of(context, tenant_id)
        held = await found(context, ENTITLEMENTS, tenant_id)
        standings = select(document(SubscriptionRow)).where(SubscriptionRow.tenant_id == tenant_id)
        meters = select(document(MeterRow)).where(MeterRow.tenant_id == tenant_id)
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
                for row in await context.rows(standings.order_by(SubscriptionRow.id).limit(MAX_PAGE))
            ],
            entitlements=EntitlementsView.of(held) if held is not None else None,
            usage=[
                UsageView(
                    meter=meter.meter, total=meter.total, records=meter.records, included=included.get(meter.meter)
                )
                for row in await context.rows(meters.order_by(MeterRow.id).limit(MAX_PAGE))
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
        standings, next_ = await page(context, SUBSCRIPTIONS, after, limit, access=access)
        return SubscriptionPage(subscriptions=[standing.subscription for standing in standings], next=next_)

    return routes
