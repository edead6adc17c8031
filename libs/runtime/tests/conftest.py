"""The specimen for the chassis's tests is the tenant service: it has HTTP, personal data, rules and facts to hear."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from paybill_contracts.billing import Catalogue, CataloguePublished, PlanVersion
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Blueprint, BlueprintPublished
from paybill_runtime.testing import Served
from paybill_tenant.app import service

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
    """What the specimen has to hear before it grants a request."""
    content = Catalogue(product="app", plans=(PLAN,))
    regions = Blueprint(name="main", regions=("eu-1",), tiers=(), tables=())
    return (
        CataloguePublished(catalogue="main", content=content, content_hash=HASH),
        BlueprintPublished(blueprint="main", content=regions, content_hash=HASH),
    )


@pytest.fixture
async def served(start, say, log, offerings) -> Served:
    """The specimen, running, with what may be asked for."""
    running = await start(service())
    await say(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    return running


@pytest.fixture
def sign_up() -> Callable[..., Awaitable[Any]]:
    """`await sign_up(served, "slug")` asks for a tenant."""

    async def request(served: Served, slug: str = "acme", **headers: str) -> Any:
        body = {
            "slug": slug,
            "name": "Acme",
            "plan": "pro",
            "region": "eu-1",
            "contact_email": "un.likely@acme.example",
        }
        return await served.client.post("/v1/tenants", json=body, headers=headers)

    return request
