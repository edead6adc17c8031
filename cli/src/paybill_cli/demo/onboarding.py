"""Chapters 1 to 3: the catalogue, the sign-up, and the first payment."""

import asyncio

from paybill_contracts.billing import (
    AccountOpened,
    AccountRegistered,
    EntitlementsSet,
    PublishersAllowed,
    SubscriptionActivated,
)
from paybill_contracts.blueprints import BlueprintPublished
from paybill_contracts.catalogue import CataloguePublished
from paybill_contracts.credentials import CredentialsMade
from paybill_contracts.environment_plans import EnvironmentPlanned, EnvironmentReady
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import EnvironmentRegistered
from paybill_contracts.tenant import OfferingNoted, ProvisioningStarted, TenantActivated, TenantRequested

from paybill_cli.demo.session import Customer, DemoSession, Tenant

CUSTOMERS = (
    ("acme", "starter", Preset.POOLED),
    ("aria", "starter", Preset.POOLED),
    ("bolt", "team", Preset.BRIDGE),
    ("birch", "team", Preset.BRIDGE),
    ("crane", "business", Preset.SILO),
)
"""Two in a pool and two on a bridge, because isolation on shared resources needs a second tenant."""


async def publish_catalogue(session: DemoSession) -> str:
    """Checks that catalogue and blueprint are events, so that they can be replayed; returns the blueprint's region."""
    session.printer.chapter(1, "Catalogue and blueprint are events in the log")
    blueprint = await session.recorder.expect(BlueprintPublished)
    await session.recorder.expect(CataloguePublished)
    await session.recorder.expect(PublishersAllowed)
    await session.recorder.expect(OfferingNoted, lambda noted: noted.offering == "plans")
    await session.recorder.expect(OfferingNoted, lambda noted: noted.offering == "regions")
    return blueprint.content.regions[0]


async def sign_up(session: DemoSession, region: str, suffix: str) -> list[Customer]:
    """Requests a tenant per customer over HTTP; billing opens an account for each."""
    session.printer.chapter(2, "Five customers sign up: two share tables, two share a database, one has its own")
    return list(
        await asyncio.gather(
            *(_sign_up(session, f"{name}{suffix}", plan, placement, region) for name, plan, placement in CUSTOMERS)
        )
    )


async def _sign_up(session: DemoSession, slug: str, plan: str, placement: Preset, region: str) -> Customer:
    body = {
        "slug": slug,
        "name": slug.capitalize(),
        "plan": plan,
        "region": region,
        "contact_email": f"billing@{slug}.example",
    }
    tenant_id = (await session.request("POST", "/v1/tenants", body))["id"]
    requested = await session.recorder.expect(TenantRequested, tenant=tenant_id)
    await session.recorder.expect(AccountRegistered, tenant=tenant_id)
    await session.recorder.expect(EnvironmentRegistered, tenant=tenant_id)
    opened = await session.recorder.expect(AccountOpened, tenant=tenant_id)
    trace_ids = {session.recorder.fact_of(event).origin.traceparent[3:35] for event in (requested, opened)}
    session.check(f"{slug}'s request and its account have the same trace", len(trace_ids) == 1, ", ".join(trace_ids))
    return Customer(slug, placement, tenant_id, opened.customer, opened.checkout)


async def pay(session: DemoSession, customers: list[Customer]) -> list[Tenant]:
    """Pays for every customer; Stripe's signed webhooks arrive, and each tenant gets an environment."""
    session.printer.chapter(3, "They pay; Stripe's webhooks arrive, and environments are built")
    tenants = await asyncio.gather(*(_pay(session, customer) for customer in customers))
    await asyncio.to_thread(session.fake.wait_delivered)
    delivered = await asyncio.to_thread(lambda: session.fake.deliveries(state="delivered"))
    session.check(
        "every webhook was signed, sent over HTTP and accepted", bool(delivered), f"{len(delivered)} webhooks"
    )
    return list(tenants)


async def _pay(session: DemoSession, customer: Customer) -> Tenant:
    await asyncio.to_thread(session.fake.pay_checkout, customer.checkout)
    expect, id_ = session.recorder.expect, customer.tenant_id
    activated = await expect(SubscriptionActivated, tenant=id_)
    entitled = await expect(EntitlementsSet, lambda fact: fact.allows_access, tenant=id_)
    planned = await expect(EnvironmentPlanned, tenant=id_)
    await expect(ProvisioningStarted, tenant=id_)
    ready = await expect(EnvironmentReady, lambda fact: fact.plan_hash == planned.plan_hash, tenant=id_)
    await expect(TenantActivated, tenant=id_)
    session.check(
        f"{customer.slug} has the placement of its plan",
        entitled.placement is customer.placement,
        f"{entitled.placement}",
    )
    await session.wait_status(customer.slug, "active")
    session.check(
        f"{customer.slug} has no password before it is requested",
        all(each.secret is None for each in ready.connections),
        f"logins {', '.join(each.username for each in ready.connections)}",
    )
    await session.request("POST", f"/v1/environments/{id_}/credentials", service="provisioner")
    made = await expect(CredentialsMade, tenant=id_)
    subscription = activated.subscription.provider_subscription
    return Tenant(customer.slug, customer.placement, id_, customer.customer, subscription, made.connections[0])
