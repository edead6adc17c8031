"""HTTP API: runs, approvals of calls, agents, bundles, freezes, explanations, and tenants as they concern agents."""

from fastapi import APIRouter
from paybill_runtime.decisions.context import ServiceContext

from paybill_agent_gateway.act import Gate
from paybill_agent_gateway.api import agents, approvals, bundles, explanations, freezes, runs, table_drift, tenants
from paybill_agent_gateway.api.tenants import read_state

__all__ = ["read_state", "router"]


def router(context: ServiceContext, gate: Gate) -> APIRouter:
    """Returns the routes of the REST API."""
    parts = (
        runs.router(context, gate),
        approvals.router(context),
        agents.router(context),
        freezes.router(context),
        bundles.router(context),
        table_drift.router(context, gate),
        explanations.router(context),
        tenants.router(context),
    )
    return APIRouter(routes=[route for part in parts for route in part.routes])
