"""HTTP routes that show accounts and list subscriptions."""

from typing import Annotated

from fastapi import APIRouter, Query
from paybill_contracts.billing import AccessState, Subscription
from paybill_contracts.catalogue import MeteredFeature, Price
from paybill_contracts.money import Money
from paybill_contracts.purchases import FIRST_PRICE, PurchaseTerms, price_for
from paybill_contracts.values import SubscriptionId, TenantId
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.listing import MAX_PAGE, Limit, load_page, load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.entitlements.api import EntitlementsView
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.http import Viewer
from paybill_billing.subscriptions.domain.accounts import Status
from paybill_billing.subscriptions.tables import SUBSCRIPTIONS, account_of, subscriptions_of
from paybill_billing.usage.tables import METERS, meters_of


class UsageView(BaseModel):
    """Usage of one meter. `included` costs nothing extra; null when the plan has no such feature any more."""

    meter: str
    total: int
    records: int
    included: int | None


class AccountView(BaseModel):
    """An account. The contact address is not shown: it is encrypted in the log."""

    tenant_id: TenantId
    status: Status
    plan: Annotated[str, Field(description="The plan of the sign-up; the subscription has the current one.")]
    plan_version: int
    terms: Annotated[PurchaseTerms, Field(description="Terms of the sign-up; the subscription has the current ones.")]
    price: Annotated[Price | None, Field(description="The price of the sign-up, of one unit and without a coupon.")]
    provider: str
    customer: str | None
    adopts: Annotated[str | None, Field(description="The provider's customer that existed before the tenant.")]
    checkout_url: Annotated[str | None, Field(description="The checkout; null until the account is open.")]
    failure: Annotated[str | None, Field(description="The reason why the provider refused to open the account.")]
    leaving: bool
    debt: Annotated[list[Money], Field(description="What the customer owes at the provider, by currency.")]
    subscriptions: list[Subscription]
    entitlements: EntitlementsView | None
    usage: list[UsageView]


class SubscriptionPage(BaseModel):
    """Subscriptions in the order of their ids."""

    subscriptions: list[Subscription]
    next: Annotated[SubscriptionId | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of accounts and subscriptions."""
    routes = Router(prefix="/v1", tags=["billing"])

    @routes.get("/tenants/{tenant_id}/account")
    async def show_account(tenant_id: TenantId, _: Viewer) -> AccountView:
        """Returns an account with its subscriptions, entitlements and usage."""
        account = await account_of(context, tenant_id)
        known = catalogue.existing(await load_state(context, CATALOGUES, catalogue.CATALOGUE))
        plan = catalogue.published(known, account.plan, account.plan_version).plan
        terms = account.terms or FIRST_PRICE
        entitlements = await load_state(context, ENTITLEMENTS, tenant_id)
        included = (
            {f.meter: f.included for f in entitlements.features if isinstance(f, MeteredFeature)}
            if entitlements
            else {}
        )
        return AccountView(
            tenant_id=account.id,
            status=account.status,
            plan=account.plan,
            plan_version=account.plan_version,
            terms=terms,
            price=price_for(plan.prices, terms),
            provider=account.provider,
            customer=account.customer,
            adopts=account.adopts,
            checkout_url=account.checkout_url,
            failure=account.failure,
            leaving=account.leaving,
            debt=list(account.debt),
            subscriptions=[
                SUBSCRIPTIONS.load(row.state).subscription
                for row in await context.rows(subscriptions_of(tenant_id, MAX_PAGE))
            ],
            entitlements=EntitlementsView.of(entitlements) if entitlements is not None else None,
            usage=[
                UsageView(
                    meter=meter.meter, total=meter.total, records=meter.records, included=included.get(meter.meter)
                )
                for row in await context.rows(meters_of(tenant_id, MAX_PAGE))
                for meter in [METERS.load(row.state)]
            ],
        )

    @routes.get("/subscriptions")
    async def show_subscriptions(
        _: Viewer,
        access: Annotated[AccessState | None, Query(description="Only subscriptions with this access.")] = None,
        after: Annotated[
            SubscriptionId | None, Query(description="Only ids after this one: `next` of the page before.")
        ] = None,
        limit: Limit = 50,
    ) -> SubscriptionPage:
        """Returns a page of subscriptions in the order of their ids."""
        states, next_ = await load_page(context, SUBSCRIPTIONS, after, limit, access=access)
        return SubscriptionPage(subscriptions=[state.subscription for state in states], next=next_)

    return routes
