"""Chapter 6: a renewal fails; access ends after the grace period and returns with the payment; the data stays."""

import asyncio
from contextlib import AsyncExitStack

import asyncpg
from paybill_contracts.billing import (
    EntitlementsSet,
    PaymentFailed,
    SubscriptionGraceStarted,
    SubscriptionRecovered,
    SubscriptionSuspended,
)
from paybill_contracts.provisioner import AccessClosed, AccessOpened
from paybill_contracts.tenant import TenantReactivated, TenantSuspended

from paybill_cli.demo.isolation import check_login_refused, check_own_documents
from paybill_cli.demo.session import Connection, DemoSession, Tenant


async def fail_and_recover(session: DemoSession, tenant: Tenant) -> None:
    """Makes a renewal fail, and pays it later."""
    session.printer.chapter(6, f"{tenant.slug}'s card is declined: grace period, then no access; after payment, access")
    expect, after = session.recorder.expect, session.recorder.last_sequence
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(session.connected(tenant))
        await asyncio.to_thread(session.fake.set_payment, tenant.customer, "fail")
        await asyncio.to_thread(session.fake.renew, tenant.subscription)
        failed = await expect(PaymentFailed, tenant=tenant.id, after=after)
        await expect(SubscriptionGraceStarted, tenant=tenant.id, after=after)
        await check_own_documents(session, tenant)
        suspended = await expect(SubscriptionSuspended, tenant=tenant.id, after=after)
        until, at = suspended.subscription.grace_until, session.recorder.fact_of(suspended).time
        session.check(
            "access ended after the grace period, not before",
            until is not None and at >= until,
            f"grace until {until}, suspended at {at}",
        )
        await expect(EntitlementsSet, lambda fact: not fact.allows_access, tenant=tenant.id, after=after)
        await expect(TenantSuspended, tenant=tenant.id, after=after)
        await expect(AccessClosed, tenant=tenant.id, after=after)
        session.check(f"{tenant.slug}'s open connection was closed", *await _is_closed(connection))
    await check_login_refused(session, tenant)
    await session.wait_status(tenant.slug, "suspended")

    await asyncio.to_thread(session.fake.set_payment, tenant.customer, "succeed")
    await asyncio.to_thread(session.fake.pay_invoice, failed.invoice)
    await expect(SubscriptionRecovered, tenant=tenant.id, after=after)
    await expect(TenantReactivated, tenant=tenant.id, after=after)
    await expect(AccessOpened, tenant=tenant.id, after=after)
    await session.wait_status(tenant.slug, "active")
    await check_own_documents(session, tenant)


async def _is_closed(connection: Connection) -> tuple[bool, str]:
    try:
        await connection.execute("SELECT 1")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        return True, str(error).partition("\n")[0] or type(error).__name__
    return False, "it still answers"
