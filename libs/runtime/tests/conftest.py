"""Fixtures with the tenant service, which has HTTP routes, personal data, rules and subscriptions."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from paybill_runtime.testing import Served
from paybill_tenant.app import service

sys.path.append(str(Path(__file__).parent))  # of job_testbed


@pytest.fixture
async def served(start, publish, log, offerings) -> Served:
    """Running tenant service that knows a plan and a region."""
    running = await start(service())
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    return running


@pytest.fixture
def sign_up() -> Callable[..., Awaitable[Any]]:
    """`await sign_up(served, "slug")` requests a tenant."""

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
