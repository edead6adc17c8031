"""HTTP route to a checkout at which a tenant's customer can pay."""

import asyncio
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from typing import Annotated

from fastapi import APIRouter, Response
from paybill_contracts.billing import Subscription
from paybill_contracts.purchases import named_prices, price_for
from paybill_contracts.values import TenantId, Url
from paybill_runtime.database.statement import ExtraStatements
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.caller import Caller
from paybill_runtime.http.listing import MAX_PAGE, load_state
from paybill_runtime.http.problems import Problem
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.domain.catalogue import Catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.http import PROVIDER_PROBLEMS, OperatorAtProvider
from paybill_billing.providers.port import (
    CheckoutProvider,
    CustomerLookup,
    CustomerSubscriptions,
    ProviderConnection,
    ProviderRefusedError,
    ProviderUnavailableError,
    Purchase,
)
from paybill_billing.providers.port.snapshots import OpenedCheckout
from paybill_billing.providers.sync_queue import CUSTOMER, enqueue_sync
from paybill_billing.subscriptions.domain import accounts, subscriptions
from paybill_billing.subscriptions.domain.accounts import Account, NoCheckoutError, NoSuchPriceError
from paybill_billing.subscriptions.tables import ACCOUNTS, SUBSCRIPTIONS, account_of, subscriptions_of

TIMEOUT_S = 8.0
MAX_CONCURRENT = 4
"""Checkout requests at the same time: they must not use up the provider's rate limit, which syncs need."""


class CheckoutView(BaseModel):
    """A checkout at which the customer can pay."""

    checkout: str
    url: Annotated[Url, Field(description="Valid until it is paid or expires; the provider sets the time.")]


def router(context: ServiceContext, connected: Mapping[str, ProviderConnection]) -> APIRouter:
    """Returns the route of checkouts. connected: the providers by name."""
    away = {**PROVIDER_PROBLEMS, 503: (*PROVIDER_PROBLEMS[503], "no_catalogue")}
    routes = Router(prefix="/v1", tags=["checkout"], problems=away)
    concurrency = asyncio.Semaphore(MAX_CONCURRENT)

    async def opened(account: Account, customer: str, *, is_first: bool) -> OpenedCheckout | str:
        """Returns the checkout, or the subscription that the customer has paid and no sync has fetched yet."""
        connection = connected.get(account.provider)
        if connection is None:
            raise _away(f"the provider {account.provider} is not configured here")
        provider = connection.provider
        if not isinstance(provider, CheckoutProvider):
            raise NoCheckoutError(f"{account.provider} opens no further checkout")
        known = await load_state(context, CATALOGUES, catalogue.CATALOGUE)
        if known is None:
            raise Problem(503, "no_catalogue", "no catalogue is published yet; try again later")
        purchase = _purchase(known, account, customer, is_first=is_first)
        # Two requests at once open one checkout: both replace the same one.
        key = sha256(f"checkout/{account.id}/{account.checkout}".encode()).hexdigest()[:32]
        try:
            async with asyncio.timeout(TIMEOUT_S), concurrency:
                paid = await _running_plan(provider, known, account, customer)
                return paid or await _checkout(provider, purchase, key)
        except TimeoutError as error:
            raise _away(f"{account.provider} did not answer in {TIMEOUT_S:.0f} s") from error
        except ProviderUnavailableError as error:
            raise _away(str(error)) from error
        except ProviderRefusedError as error:
            raise Problem(502, "provider_refused", f"{account.provider} refused a checkout: {error}") from error

    @routes.post("/tenants/{tenant_id}/checkout")
    async def open_checkout(tenant_id: TenantId, principal: OperatorAtProvider, response: Response) -> CheckoutView:
        """Returns a checkout that can be used now: the last one, or a new one after it expired.

        A new one sells the newest version of the plan when the version of the sign-up is retired, and is refused with
        `plan_not_on_sale` when no version is on sale, `no_such_price` when it has no price with the terms of the
        sign-up. Refused with `no_checkout` while the account is not open, for a tenant that leaves or has a
        subscription, and for a customer that was deleted at the provider;
        `debt_open` when the policy is to sell nothing to a customer that owes;
        `no_checkout`, too, when the provider already has a subscription that no webhook has brought: it is fetched now.
        502 `provider_refused`, 503 `provider_away` when the provider does not answer in time.
        """
        account = await account_of(context, tenant_id)
        held = await _subscriptions(context, tenant_id)
        customer = accounts.require_checkout(account, held)
        if context.settings.sales_with_debt == "refused":
            accounts.require_no_debt(account)
        checkout = await opened(account, customer, is_first=not held)
        if isinstance(checkout, str):
            await _fetch(context, principal, partial(enqueue_sync, account.provider, checkout, context.now()))
            raise NoCheckoutError(
                f"the customer of {tenant_id} has the subscription {checkout} at {account.provider} already; "
                "it is being fetched"
            )

        def decide(unit: UnitOfWork, _: DecisionContext) -> bool:
            current = unit.get(ACCOUNTS, tenant_id)
            if current is None or current.leaving:
                return False
            unit.record(ACCOUNTS, tenant_id, accounts.checkout_opened(current, checkout, held))
            return True

        is_valid = await context.decide(
            principal.origin,
            decide,
            writes=[ACCOUNTS.key(tenant_id)],
            verb="open_checkout",
            target=tenant_id,
            # The checkout may be a leftover that was found before the tenant could return at it.
            extra_statements=_customer_sync(context, account.provider, customer) if account.charges else None,
        )
        if not is_valid:
            # Its cancellation may have passed before this checkout existed: the sync of the customer closes it.
            await _fetch(context, principal, _customer_sync(context, account.provider, customer))
            raise NoCheckoutError(f"{tenant_id} began to leave meanwhile, and the new checkout is being closed")
        await _require_again(context, principal, account, customer)
        response.headers["Cache-Control"] = "no-store"
        return CheckoutView(checkout=checkout.id, url=checkout.url)

    return routes


def _purchase(known: Catalogue, account: Account, customer: str, *, is_first: bool) -> Purchase:
    """Returns what a new checkout sells: nothing that is retired. Raises PlanNotOnSaleError, NoSuchPriceError."""
    version = catalogue.sold_now(known, account.plan, account.plan_version)
    plan = accounts.sold_plan(account, version, is_first=is_first)
    terms = accounts.sold_terms(account, is_first=is_first)
    price = price_for(plan.prices, terms)
    if price is None:
        raise NoSuchPriceError(f"{plan.plan}@{plan.version} has no such price; its prices: {named_prices(plan.prices)}")
    metered = catalogue.metered_prices(known, plan, price, account.provider)
    return Purchase(account.id, customer, known.on_sale.product, plan, account.checkout, terms, metered)


async def _checkout(provider: CheckoutProvider, purchase: Purchase, key: str) -> OpenedCheckout:
    # Before the provider is asked for a checkout: it may still have one that nobody can pay.
    if await is_deleted(provider, purchase.customer):
        raise NoCheckoutError(
            f"the customer {purchase.customer} was deleted at the provider and can buy nothing any more; "
            "it has to sign up as a new tenant"
        )
    return await provider.checkout(purchase, key)


async def is_deleted(provider: object, customer: str) -> bool:
    """Returns whether the provider has deleted the customer; False when it cannot tell now.

    A failure of this call alone explains nothing, and prevents no checkout.
    """
    if not isinstance(provider, CustomerLookup):
        return False
    try:
        return await provider.is_deleted(customer)
    except (ProviderRefusedError, ProviderUnavailableError):
        return False


async def _require_again(context: ServiceContext, principal: Caller, account: Account, customer: str) -> None:
    """Raises NoCheckoutError for a tenant that returned before its new checkout was recorded, which is then closed."""
    try:
        accounts.require_checkout(account, await _subscriptions(context, account.id))
    except NoCheckoutError:
        await _fetch(context, principal, _customer_sync(context, account.provider, customer))
        raise


async def _subscriptions(context: ServiceContext, tenant_id: str) -> list[Subscription]:
    rows = await context.rows(subscriptions_of(tenant_id, MAX_PAGE))
    return [SUBSCRIPTIONS.load(row.state).subscription for row in rows]


def _away(detail: str) -> Problem:
    return Problem(503, "provider_away", detail)


async def _running_plan(provider: object, known: Catalogue, account: Account, customer: str) -> str | None:
    """Returns the customer's subscription to a plan that the provider has; its webhook may be late or lost."""
    if not isinstance(provider, CustomerSubscriptions):
        return None
    return subscriptions.running_plan(known, account, await provider.subscriptions_of(customer))


def _customer_sync(context: ServiceContext, provider: str, customer: str) -> ExtraStatements:
    """Returns the statement that enqueues a sync of what can charge a customer."""
    return partial(enqueue_sync, provider, f"{CUSTOMER}/{customer}", context.now())


async def _fetch(context: ServiceContext, principal: Caller, enqueue: ExtraStatements) -> None:
    """Enqueues a sync of an object of the provider."""
    await context.decide(principal.origin, lambda _unit, _at: None, extra_statements=enqueue)
