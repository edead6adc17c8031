"""HTTP: what operators and clients may look at, and where providers send their messages."""

from fastapi import APIRouter
from paybill_runtime.http import Edge

from paybill_billing.api import queries, webhooks


def router(edge: Edge) -> APIRouter:
    """The routes, on this edge."""
    routes = APIRouter()
    routes.include_router(queries.router(edge))
    routes.include_router(webhooks.router(edge))
    return routes
