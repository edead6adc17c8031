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
    parts = (
        blueprints.router(context),
        cells.router(context),
        policy.router(context),
        plans.router(context),
        approvals.router(context),
        price_book.router(context),
        credentials.router(context),
        environments.router(context),
        drift.router(context, checks),
    )
    return APIRouter(routes=[route for part in parts for route in part.routes])
