"""HTTP API for operators: tenants as far as they concern agents, and bundles."""

from fastapi import APIRouter
from paybill_runtime.decisions.context import ServiceContext

from paybill_agent_gateway.api import bundles, tenants
from paybill_agent_gateway.api.tenants import read_state

__all__ = ["read_state", "router"]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of the service."""
    routes = APIRouter()
    routes.include_router(tenants.router(context))
    routes.include_router(bundles.router(context))
    return routes
