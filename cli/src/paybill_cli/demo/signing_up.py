"""Chapters 1 to 3: what is on sale, who signs up, and what a payment leads to."""

import asyncio

from paybill_contracts.billing import (
    AccountOpened,
    AccountRegistered,
    EntitlementsSet,
    PublishersAllowed,
    SubscriptionActivated,
)
from paybill_contracts.catalogue import CataloguePublished
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import (
    BlueprintPublished,
    EnvironmentPlanned,
    EnvironmentReady,
    EnvironmentRegistered,
)
from paybill_contracts.tenant import OfferingNoted, ProvisioningStarted, TenantActivated, TenantRequested

from paybill_cli.demo.scene import Scene, SignedUp, Tenant

CUSTOMERS = (
    ("acme", "starter", Preset.POOLED),
    ("aria", "starter", Preset.POOLED),
    ("bolt", "team", Preset.BRIDGE),
    ("birch", "team", Preset.BRIDGE),
    ("crane", "business", Preset.SILO),
)
"""Two in a pool and two on a bridge, because only a neighbour can be kept out of what is shared."""


async def offer(scene: Scene) -> str:
    """What decides is a fact too, so that it can be replayed; the region that the blueprint builds in."""
    scene.voice.chapter(1, "What is sold, and what it runs on, are facts")
    blueprint = await scene.journal.expect(BlueprintPublished)
    await scene.journal.expect(CataloguePublished)
    await scene.journal.expect(PublishersAllowed)
    await scene.journal.expect(OfferingNoted, lambda noted: noted.offering == "plans")
    await scene.journal.expect(OfferingNoted, lambda noted: noted.offering == "regions")
    return blueprint.content.regions[0]


async def sign_up(scene: Scene, region: str, suffix: str) -> list[SignedUp]:
    """Everybody asks for a tenant over HTTP, and billing opens an account for each."""
    scene.voice.chapter(2, "Five customers sign up: two share tables, two share a database, one has its own")
    return list(
        await asyncio.gather(
            *(_sign_up(scene, f"{name}{suffix}", plan, placement, region) for name, plan, placement in CUSTOMERS)
        )
    )


async def _sign_up(scene: Scene, slug: str, plan: str, placement: Preset, region: str) -> SignedUp:
    body = {
        "slug": slug,
        "name": slug.capitalize(),
        "plan": plan,
        "region": region,
        "contact_email": f"billing@{slug}.example",
    }
    tenant_id = (await scene.answer("POST", "/v1/tenants", body))["id"]
    requested = await scene.journal.expect(TenantRequested, tenant=tenant_id)
    await scene.journal.expect(AccountRegistered, tenant=tenant_id)
    await scene.journal.expect(EnvironmentRegistered, tenant=tenant_id)
    opened = await scene.journal.expect(AccountOpened, tenant=tenant_id)
    traces = {scene.journal.fact_of(event).origin.traceparent[3:35] for event in (requested, opened)}
    scene.check(f"one trace leads from {slug}'s request to its account", len(traces) == 1, ", ".join(traces))
    return SignedUp(slug, placement, tenant_id, opened.customer, opened.checkout)


async def pay(scene: Scene, customers: list[SignedUp]) -> list[Tenant]:
    """Everybody pays; Stripe's signed webhooks arrive, and each gets an environment."""
    scene.voice.chapter(3, "They pay; Stripe's webhooks arrive, and infrastructure follows")
    tenants = await asyncio.gather(*(_pay(scene, customer) for customer in customers))
    await asyncio.to_thread(scene.fake.wait_delivered)
    delivered = await asyncio.to_thread(lambda: scene.fake.deliveries(state="delivered"))
    scene.check("every webhook was signed, sent over HTTP and taken", bool(delivered), f"{len(delivered)} deliveries")
    return list(tenants)


async def _pay(scene: Scene, who: SignedUp) -> Tenant:
    await asyncio.to_thread(scene.fake.pay_checkout, who.checkout)
    expect = scene.journal.expect
    activated = await expect(SubscriptionActivated, tenant=who.tenant_id)
    entitled = await expect(EntitlementsSet, lambda fact: fact.allows_access, tenant=who.tenant_id)
    planned = await expect(EnvironmentPlanned, tenant=who.tenant_id)
    await expect(ProvisioningStarted, tenant=who.tenant_id)
    ready = await expect(EnvironmentReady, lambda fact: fact.plan_hash == planned.plan_hash, tenant=who.tenant_id)
    await expect(TenantActivated, tenant=who.tenant_id)
    scene.check(f"{who.slug} has what it paid for", entitled.placement is who.placement, f"a {entitled.placement}")
    await scene.status(who.slug, "active")
    provider_subscription = activated.subscription.provider_subscription
    return Tenant(who.slug, who.placement, who.tenant_id, who.customer, provider_subscription, ready.endpoint)
