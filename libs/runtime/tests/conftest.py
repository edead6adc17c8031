"""The specimen for the chassis's tests is the tenant service: it has HTTP, personal data, rules and facts to hear."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from paybill_runtime.testing import Served
from paybill_tenant.app import service


@pytest.fixture
async def served(start, publish, log, offerings) -> Served:
    """The specimen, running, with what may be asked for."""
    running = await start(service())
    await publish(*offerings)
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
