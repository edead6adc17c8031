"""HTTP API for operators: the tenants, as far as they concern agents."""

from fastapi import APIRouter
from paybill_runtime.decisions.context import ServiceContext

from paybill_agent_gateway.api import tenants
from paybill_agent_gateway.api.tenants import read_state

__all__ = ["read_state", "router"]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of the service."""
    routes = APIRouter()
    routes.include_router(tenants.router(context))
    return routes
