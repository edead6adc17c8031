"""HTTP API: runs, approvals of calls, agents, bundles, freezes, explanations, and tenants as they concern agents."""

from fastapi import APIRouter
from paybill_runtime.decisions.context import ServiceContext

from paybill_agent_gateway.act import Gate
from paybill_agent_gateway.api import agents, approvals, bundles, explanations, freezes, runs, table_drift, tenants
from paybill_agent_gateway.api.tenants import read_state

__all__ = ["read_state", "router"]


def router(context: ServiceContext, gate: Gate) -> APIRouter:
    """Returns the routes of the REST API."""
    routes = APIRouter()
    routes.include_router(runs.router(context, gate))
    routes.include_router(approvals.router(context))
    routes.include_router(agents.router(context))
    routes.include_router(freezes.router(context))
    routes.include_router(bundles.router(context))
    routes.include_router(table_drift.router(context, gate))
    routes.include_router(explanations.router(context))
    routes.include_router(tenants.router(context))
    return routes
