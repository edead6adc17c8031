"""Chapter 7: a customer cancels at the provider; its data is exported, its access ends, and its data is kept."""

import gzip
import hashlib
from pathlib import Path

import httpx
from paybill_contracts.billing import SubscriptionEnded
from paybill_contracts.provisioner import EnvironmentRetained, RetentionStarted
from paybill_contracts.tenant import OffboardingStarted, TenantRetained
from paybill_stack.layout import STRIPE_FAKE

from paybill_cli.demo.isolation import login_refused
from paybill_cli.demo.journal import PATIENCE_S, NotObservedError
from paybill_cli.demo.scene import Scene, Tenant


async def leave(scene: Scene, tenant: Tenant) -> None:
    """From the cancellation to what is kept."""
    scene.voice.chapter(7, f"{tenant.slug} cancels at Stripe: exported, closed, kept")
    expect, after = scene.journal.expect, scene.journal.upto
    await _cancel(scene, tenant)
    await expect(SubscriptionEnded, tenant=tenant.id, after=after)
    offboarding = await expect(OffboardingStarted, tenant=tenant.id, after=after)
    await expect(RetentionStarted, tenant=tenant.id, after=after)
    retained = await expect(EnvironmentRetained, tenant=tenant.id, after=after)
    kept = await expect(TenantRetained, tenant=tenant.id, after=after)
    await scene.status(tenant.slug, "retained")
    scene.check(
        f"{tenant.slug}'s data is promised to stay",
        kept.retain_until == offboarding.retain_until,
        str(kept.retain_until),
    )
    path = scene.stack.layout.local / retained.export.location
    digest, rows = _read(path)
    scene.check("the export is the file that the fact names", digest == retained.export.sha256, f"sha256 {digest}")
    expected = len(tenant.documents)
    scene.check("every document is in it", rows == retained.export.rows == expected, f"{rows} rows in {path.name}")
    await login_refused(scene, tenant)


async def _cancel(scene: Scene, tenant: Tenant) -> None:
    """As the customer's own button does, by Stripe's API."""
    key = scene.stack.layout.stripe_api_key.read_text(encoding="ascii").strip()
    url = f"{scene.stack.at.url(STRIPE_FAKE)}/v1/subscriptions/{tenant.subscription}"
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
        response = await client.delete(url, headers={"Authorization": f"Bearer {key}"})
    if response.is_error:
        raise NotObservedError(f"{tenant.slug} cancels at the provider", response.text[:500])


def _read(path: Path) -> tuple[str, int]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotObservedError("the export file", str(error)) from error
    return hashlib.sha256(content).hexdigest(), len(gzip.decompress(content).splitlines())
