"""Chapter 8: a customer cancels at the provider, is offboarded, and comes back to the same data."""

import asyncio
import gzip
import hashlib
from pathlib import Path

import httpx
from paybill_contracts.billing import SubscriptionEnded
from paybill_contracts.environment_plans import EnvironmentReady
from paybill_contracts.provisioner import EnvironmentRetained, RestorationStarted, RetentionStarted
from paybill_contracts.tenant import OffboardingStarted, ReturnStarted, TenantActivated, TenantRetained
from paybill_stack.layout import STRIPE_FAKE

from paybill_cli.demo.isolation import check_login_refused, check_own_documents
from paybill_cli.demo.recorder import TIMEOUT_S, NotObservedError
from paybill_cli.demo.session import DemoSession, Tenant


async def offboard(session: DemoSession, tenant: Tenant) -> None:
    """Cancels the subscription, and checks export and retention; then the customer subscribes again."""
    session.printer.chapter(8, f"{tenant.slug} cancels at Stripe: data exported and retained; then it comes back")
    expect, after = session.recorder.expect, session.recorder.last_sequence
    await _cancel(session, tenant)
    await expect(SubscriptionEnded, tenant=tenant.id, after=after)
    offboarding = await expect(OffboardingStarted, tenant=tenant.id, after=after)
    await expect(RetentionStarted, tenant=tenant.id, after=after)
    retained = await expect(EnvironmentRetained, tenant=tenant.id, after=after)
    kept = await expect(TenantRetained, tenant=tenant.id, after=after)
    await session.wait_status(tenant.slug, "retained")
    session.check(
        f"{tenant.slug}'s data is retained for the promised time",
        kept.retain_until == offboarding.retain_until,
        f"until {kept.retain_until}",
    )
    path = session.stack.layout.local / retained.export.location
    digest, rows = _read(path)
    session.check("the export file has the hash of its event", digest == retained.export.sha256, f"sha256 {digest}")
    expected = len(tenant.documents)
    session.check(
        "the export contains every document", rows == retained.export.rows == expected, f"{rows} rows in {path.name}"
    )
    await check_login_refused(session, tenant)
    await _come_back(session, tenant)


async def _come_back(session: DemoSession, tenant: Tenant) -> None:
    """Pays at another checkout, and checks that the tenant has its access and its documents again."""
    expect, after = session.recorder.expect, session.recorder.last_sequence
    opened = await session.request("POST", f"/v1/tenants/{tenant.id}/checkout", service="billing")
    await asyncio.to_thread(session.fake.pay_checkout, opened["checkout"])
    await expect(ReturnStarted, tenant=tenant.id, after=after)
    await expect(RestorationStarted, tenant=tenant.id, after=after)
    ready = await expect(EnvironmentReady, tenant=tenant.id, after=after)
    await expect(TenantActivated, tenant=tenant.id, after=after)
    await session.wait_status(tenant.slug, "active")
    same = ready.connections[0] == tenant.endpoint
    session.check(f"{tenant.slug} has its environment back", same, f"epoch {ready.epoch}")
    await check_own_documents(session, tenant)


async def _cancel(session: DemoSession, tenant: Tenant) -> None:
    """Cancels by Stripe's API, like the customer portal."""
    key = session.stack.layout.stripe_api_key.read_text(encoding="ascii").strip()
    url = f"{session.stack.addresses.url(STRIPE_FAKE)}/v1/subscriptions/{tenant.subscription}"
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as client:
        response = await client.delete(url, headers={"Authorization": f"Bearer {key}"})
    if response.is_error:
        raise NotObservedError(f"{tenant.slug} cancels at the provider", response.text[:500])


def _read(path: Path) -> tuple[str, int]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotObservedError("the export file", str(error)) from error
    return hashlib.sha256(content).hexdigest(), len(gzip.decompress(content).splitlines())
