"""Fixtures for tests of the running service, and events of other services about a tenant."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from paybill_contracts.billing import (
    AccessState,
    AccountRegistered,
    Subscription,
    SubscriptionEnded,
    SubscriptionRecovered,
    SubscriptionSuspended,
)
from paybill_contracts.catalogue import PlanRef
from paybill_contracts.money import Money
from paybill_contracts.personal import Personal
from paybill_contracts.placement import Preset, placement_of
from paybill_contracts.provisioner import (
    Endpoint,
    EnvironmentPlanned,
    EnvironmentReady,
    EnvironmentRetained,
    Export,
    Plan,
)
from paybill_tenant.app import service

HASH = "c" * 64
SIGN_UP = {
    "slug": "acme",
    "name": "Acme",
    "plan": "pro",
    "region": "eu-1",
    "contact_email": "somebody.unlikely@acme.example",
}


def events_about(tenant_id: str) -> SimpleNamespace:
    """Returns the events of other services about one tenant."""
    environment = {"tenant_id": tenant_id, "environment_id": f"env_{tenant_id[4:]}"}
    subscription = {"tenant_id": tenant_id, "subscription_id": f"sub_{tenant_id[4:]}"}
    snapshot = Subscription(
        **subscription,
        provider="stripe",
        provider_subscription="sub_1",
        provider_status="unpaid",
        access=AccessState.SUSPENDED,
        plan=PlanRef(plan="pro", version=1, catalogue_hash=HASH),
        quantity=1,
        price=Money(minor=2500, currency="EUR"),
        period_start=None,
        period_end=None,
        cancel_at=None,
        grace_until=None,
    )
    plan = Plan(
        environment_id=environment["environment_id"],
        based_on=0,
        blueprint_hash=HASH,
        entitlements_hash=HASH,
        tier="standard",
        preset=Preset.POOLED,
        placement=placement_of(Preset.POOLED),
        cloud="local",
        region="eu-1",
        steps=(),
    )
    endpoint = Endpoint(
        host="127.0.0.1", port=5432, database="d", schema_name="s", username="u", secret="secret://p/a?v=1"
    )
    return SimpleNamespace(
        registered=AccountRegistered(
            tenant_id=tenant_id,
            plan="pro",
            plan_version=1,
            provider="stripe",
            retention_s=86_400,
            name="Acme",
            contact_email=Personal[str](key=f"billing/{tenant_id}", sealed="A" * 60),
        ),
        planned=EnvironmentPlanned(**environment, plan=plan, plan_hash=HASH),
        ready=EnvironmentReady(**environment, plan_hash=HASH, epoch=1, endpoint=endpoint),
        retained=EnvironmentRetained(**environment, export=Export(location="acme", sha256=HASH, size_bytes=1, rows=1)),
        suspended=SubscriptionSuspended(**subscription, subscription=snapshot),
        recovered=SubscriptionRecovered(**subscription, subscription=snapshot),
        ended=SubscriptionEnded(**subscription, subscription=snapshot, retention_s=2 * 86_400),
    )


@pytest.fixture
async def tenant(start, publish, log, offerings) -> Any:
    """Returns the running service after it recorded the sign-up options."""
    served = await start(service())
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    return served


@pytest.fixture
def about() -> Callable[[str], SimpleNamespace]:
    """Returns a factory of other services' events about a tenant."""
    return events_about


@pytest.fixture
def sign_up() -> dict[str, str]:
    """Returns a valid request."""
    return dict(SIGN_UP)
