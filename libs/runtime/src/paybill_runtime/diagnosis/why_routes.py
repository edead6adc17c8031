"""Route for operators: the part of a service in the diagnosis of one tenant."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends
from paybill_contracts.values import TenantId
from paybill_contracts.why import ServicePart

from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.violations import Violations
from paybill_runtime.diagnosis.tenant_part import ReadState, tenant_part
from paybill_runtime.http.auth import Role
from paybill_runtime.http.caller import Caller, caller
from paybill_runtime.http.router import Router


def routes(
    context: ServiceContext,
    read_state: ReadState,
    health: Callable[[], dict[str, str]],
    lag: Callable[[], Awaitable[dict[str, int | None]]],
    bus_answers: Callable[[], Awaitable[bool]],
    incidents: Incidents | None,
    violations: Violations | None,
) -> APIRouter:
    """Returns the route `/v1/why/{tenant}`. health, lag: as of the operations."""
    router = Router(prefix="/v1/why", tags=["diagnosis"])
    viewer = Annotated[Caller, Depends(caller(Role.VIEWER, f"{context.service}:read"))]

    @router.get("/{tenant}")
    async def why(tenant: TenantId, _: viewer) -> ServicePart:
        """Returns what this service knows about a tenant: its state, pending work, problems, and its own health.

        `paybill why` asks every service and merges the parts. A service that does not know the tenant returns no state.
        """
        own = await read_state(context, tenant)
        checks = health()
        # An idle service notices only after a minute that NATS is hung.
        behind, answers = await asyncio.gather(lag(), bus_answers())
        if not answers and checks.get("bus") == "ok":
            checks["bus"] = "away"
        return await tenant_part(context, tenant, own, checks, behind.get("reader"), incidents, violations)

    return router
