"""Billing's part in the diagnosis of one tenant: account, subscriptions, payments, syncs and refused webhooks."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from paybill_contracts.billing import AccessState, Subscription
from paybill_contracts.why import (
    BillingState,
    FailedPayment,
    PendingSync,
    RefusedWebhooks,
    SubscriptionState,
)
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import REQUESTS_ABOUT, REQUESTS_WITH_ERROR
from paybill_runtime.diagnosis.tenant_part import OwnState
from paybill_runtime.http.listing import MAX_PAGE, load_state
from sqlalchemy import Row

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.providers.port import (
    CustomerSubscriptions,
    MalformedObjectError,
    Provider,
    ProviderConnection,
    ProviderRefusedError,
    ProviderUnavailableError,
)
from paybill_billing.providers.sync_queue import NO_ACCOUNT, kind_of, provider_of
from paybill_billing.subscriptions.api.checkouts import is_deleted
from paybill_billing.subscriptions.domain.accounts import Account, Status
from paybill_billing.subscriptions.tables import ACCOUNTS, LAST_FAILURE, PAYMENTS, SUBSCRIPTIONS, subscriptions_of
from paybill_billing.webhooks.tables import REFUSED, WAITING_SINCE

ENTITLING = frozenset({AccessState.ACTIVE, AccessState.TRIALING, AccessState.GRACE})
TIMEOUT_S = 2.0
"""Longest time for which a diagnosis waits for the provider: `paybill why` waits 5 s for the whole part."""
MAX_STRANGERS = 3
MAX_SYNCS = 20
REFUSALS_FOR = timedelta(hours=24)
"""Older refusals of webhooks explain nothing."""


async def read_state(context: ServiceContext, connected: Mapping[str, ProviderConnection], tenant_id: str) -> OwnState:
    """Returns the account of a tenant for its diagnosis. connected: the providers by name."""
    account = await load_state(context, ACCOUNTS, tenant_id)
    if account is None:
        return OwnState()
    rows = await context.rows(subscriptions_of(tenant_id, MAX_PAGE))
    found = [SUBSCRIPTIONS.load(row.state).subscription for row in rows]
    current = [each for each in found if each.access != "ended"]
    entitlements = await load_state(context, ENTITLEMENTS, tenant_id)
    own = {each.provider_subscription for each in found}
    kind = kind_of(account.provider)
    about = {"kind": kind, "detail": account.customer or "", "keys": sorted(own), "limit": MAX_SYNCS}
    at_provider = await _at_provider(connected, account, own) if not _entitling(current) else _AtProvider()
    return OwnState(
        aggregates=(
            f"{ACCOUNTS.kind}/{tenant_id}",
            f"{ENTITLEMENTS.kind}/{tenant_id}",
            *(f"{SUBSCRIPTIONS.kind}/{each.subscription_id}" for each in found),
        ),
        account=BillingState(
            provider=account.provider,
            status=account.status,
            customer=account.customer,
            failure=account.failure,
            is_coupon_refused=_is_coupon_refused(account),
            is_customer_refused=account.status is Status.FAILED and account.adopts is not None,
            is_customer_deleted=at_provider.is_customer_deleted,
            sells_with_debt=context.settings.sales_with_debt == "allowed",
            checkout_url=account.checkout_url,
            checkout_expired=account.checkout is not None and account.checkout_url is None,
            leaving=account.leaving,
            debt=" and ".join(amount.text for amount in account.debt) or None,
            allows_access=entitlements.allows_access if entitlements is not None else None,
            subscriptions=tuple(
                SubscriptionState(
                    id=each.subscription_id,
                    provider_object=each.provider_subscription,
                    provider_status=each.provider_status,
                    access=each.access,
                    plan=each.plan.plan,
                    grace_until=each.grace_until,
                    debt=each.overdue.text if each.overdue is not None else None,
                    pause=each.pause,
                )
                for each in current
            ),
            failed_payment=await _last_failure(context, tenant_id),
            missing=at_provider.missing,
            provider_problem=at_provider.problem,
            refused_webhooks=await _refused(context, account.provider),
            own_syncs=_pending(await context.rows(REQUESTS_ABOUT, about)),
            strangers=await _strangers(context, account.provider),
            plan_of_built_size=await _plan_of_built_size(context, account),
        ),
    )


async def _plan_of_built_size(context: ServiceContext, account: Account) -> str | None:
    pending = account.environment
    known = await load_state(context, CATALOGUES, catalogue.CATALOGUE) if pending is not None else None
    if pending is None or known is None:
        return None
    return catalogue.plan_of_size(known, pending.from_tier, pending.from_placement)


def _is_coupon_refused(account: Account) -> bool:
    coupon = account.terms.coupon if account.terms is not None else None
    return coupon is not None and account.status is Status.FAILED and coupon in (account.failure or "")


def _entitling(subscriptions: Sequence[Subscription]) -> bool:
    return any(each.access in ENTITLING for each in subscriptions)


@dataclass(frozen=True, slots=True)
class _AtProvider:
    """A customer at its provider. missing: subscriptions that billing does not know. problem: nobody answered."""

    missing: tuple[str, ...] = ()
    is_customer_deleted: bool = False
    problem: str | None = None


async def _at_provider(
    connected: Mapping[str, ProviderConnection], account: Account, own: Collection[str]
) -> _AtProvider:
    connection = connected.get(account.provider)
    if connection is None:
        return _AtProvider(problem=f"{account.provider} is not configured here")
    if account.customer is None or account.leaving:
        return _AtProvider()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _customer(connection.provider, account.customer, own)
    except TimeoutError:
        return _AtProvider(problem=f"it did not answer in {TIMEOUT_S:.0f} s")
    except (ProviderRefusedError, ProviderUnavailableError, MalformedObjectError) as error:
        return _AtProvider(problem=str(error)[:500])


async def _customer(provider: Provider, customer: str, own: Collection[str]) -> _AtProvider:
    if await is_deleted(provider, customer):
        return _AtProvider(is_customer_deleted=True)
    if not isinstance(provider, CustomerSubscriptions):
        return _AtProvider()
    snapshots = await provider.subscriptions_of(customer)
    return _AtProvider(tuple(sorted(each.id for each in snapshots if each.is_entitling and each.id not in own)))


async def _strangers(context: ServiceContext, provider: str) -> tuple[PendingSync, ...]:
    """Returns the latest objects of customers without a tenant."""
    asked = {"kind": kind_of(provider), "error": NO_ACCOUNT, "limit": MAX_STRANGERS}
    pending = _pending(await context.rows(REQUESTS_WITH_ERROR, asked))
    waiting = {"provider": provider, "targets": [each.object for each in pending]}
    since = {row.target: row.since for row in await context.rows(WAITING_SINCE, waiting)}
    return tuple(each.model_copy(update={"since": since.get(each.object)}) for each in pending)


def _pending(rows: Sequence[Row[Any]]) -> tuple[PendingSync, ...]:
    return tuple(
        PendingSync(
            provider=provider_of(row.kind),
            object=row.key,
            customer=row.detail,
            attempts=row.attempts,
            error=row.error,
            due=row.due,
        )
        for row in rows
    )


async def _last_failure(context: ServiceContext, tenant_id: str) -> FailedPayment | None:
    rows = await context.rows(LAST_FAILURE, {"tenant_id": tenant_id})
    if not rows:
        return None
    payment = PAYMENTS.load(rows[0].state)
    return FailedPayment(amount=payment.amount.text, attempt=payment.attempt or 1, invoice=payment.invoice)


async def _refused(context: ServiceContext, provider: str) -> tuple[RefusedWebhooks, ...]:
    since = context.now() - REFUSALS_FOR
    return tuple(
        RefusedWebhooks(
            provider=row.provider,
            reason=row.reason,
            count=row.count,  # type: ignore[arg-type]  # the column, which hides the method of sequences
            last_at=row.last_at,
            accepted_at=row.accepted_at,
            undelivered_at=row.undelivered_at,
        )
        for row in await context.rows(REFUSED, {"provider": provider, "limit": MAX_PAGE})
        if row.last_at > since
    )
