"""Chapter 5: a renewal fails, grace ends, access ends, and comes back with the money; the data stays."""

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

from paybill_cli.demo.isolation import login_refused, own_documents
from paybill_cli.demo.scene import Connection, Scene, Tenant


async def fail_and_recover(scene: Scene, tenant: Tenant) -> None:
    """The whole way round."""
    scene.voice.chapter(5, f"{tenant.slug}'s card is declined: grace, then no access; paid, then access again")
    expect, after = scene.journal.expect, scene.journal.upto
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(scene.inside(tenant))
        await asyncio.to_thread(scene.fake.set_payment, tenant.customer, "fail")
        await asyncio.to_thread(scene.fake.renew, tenant.subscription)
        failed = await expect(PaymentFailed, tenant=tenant.id, after=after)
        await expect(SubscriptionGraceStarted, tenant=tenant.id, after=after)
        await own_documents(scene, tenant)
        over = await expect(SubscriptionSuspended, tenant=tenant.id, after=after)
        until, at = over.subscription.grace_until, scene.journal.fact_of(over).time
        scene.check("grace was given to its end", until is not None and at >= until, f"until {until}, over at {at}")
        await expect(EntitlementsSet, lambda fact: not fact.allows_access, tenant=tenant.id, after=after)
        await expect(TenantSuspended, tenant=tenant.id, after=after)
        await expect(AccessClosed, tenant=tenant.id, after=after)
        scene.check(f"{tenant.slug}'s open session was ended", *await _is_dead(session))
    await login_refused(scene, tenant)
    await scene.status(tenant.slug, "suspended")

    await asyncio.to_thread(scene.fake.set_payment, tenant.customer, "succeed")
    await asyncio.to_thread(scene.fake.pay_invoice, failed.invoice)
    await expect(SubscriptionRecovered, tenant=tenant.id, after=after)
    await expect(TenantReactivated, tenant=tenant.id, after=after)
    await expect(AccessOpened, tenant=tenant.id, after=after)
    await scene.status(tenant.slug, "active")
    await own_documents(scene, tenant)


async def _is_dead(session: Connection) -> tuple[bool, str]:
    try:
        await session.execute("SELECT 1")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        return True, str(error).partition("\n")[0] or type(error).__name__
    return False, "it still answers"
