"""What others say in tests of single services: plans and regions to choose from, and that an account exists."""

from collections.abc import Callable

import pytest
from paybill_contracts.billing import AccountRegistered, Catalogue, CataloguePublished, PlanVersion
from paybill_contracts.personal import Personal
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Blueprint, BlueprintPublished

HASH = "c" * 64
PLAN = PlanVersion(
    plan="pro",
    version=1,
    name="Pro",
    tier="standard",
    placement=Preset.POOLED,
    trial_days=0,
    grace_s=60,
    retention_s=86_400,
    features=(),
    prices=(),
)


@pytest.fixture
def offerings() -> tuple[CataloguePublished, BlueprintPublished]:
    """What the tenant service has to hear before it grants a request."""
    content = Catalogue(product="app", plans=(PLAN,))
    regions = Blueprint(name="main", regions=("eu-1",), tiers=(), tables=())
    return (
        CataloguePublished(catalogue="main", content=content, content_hash=HASH),
        BlueprintPublished(blueprint="main", content=regions, content_hash=HASH),
    )


@pytest.fixture
def registered() -> Callable[..., AccountRegistered]:
    """`registered(tenant_id, retention_s)`: heard again after another one it is news again, so that twice shows."""

    def said(tenant_id: str, retention_s: int = 86_400) -> AccountRegistered:
        return AccountRegistered(
            tenant_id=tenant_id,
            plan="pro",
            plan_version=1,
            provider="stripe",
            retention_s=retention_s,
            name="Acme",
            contact_email=Personal[str](key=f"billing/{tenant_id}", sealed="A" * 60),
        )

    return said
