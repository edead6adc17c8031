"""HTTP API for operators: blueprints, cells, prices, policies, environments, credentials, plans and approvals."""

from fastapi import APIRouter
from paybill_runtime.decisions.context import ServiceContext

from paybill_provisioner.api import (
    approvals,
    blueprints,
    cells,
    credentials,
    drift,
    environments,
    plans,
    policy,
    price_book,
)
from paybill_provisioner.api.environments import read_state

__all__ = ["read_state", "router"]


def router(context: ServiceContext, checks: drift.Checks) -> APIRouter:
    """Returns the routes of the service."""
    routes = APIRouter()
    routes.include_router(blueprints.router(context))
    routes.include_router(cells.router(context))
    routes.include_router(policy.router(context))
    routes.include_router(plans.router(context))
    routes.include_router(approvals.router(context))
    routes.include_router(price_book.router(context))
    routes.include_router(credentials.router(context))
    routes.include_router(environments.router(context))
    routes.include_router(drift.router(context, checks))
    return routes
