"""HTTP: what operators and clients may look at, and where providers send their messages."""

from collections.abc import Callable

from fastapi import APIRouter
from paybill_runtime.http import Edge

from paybill_billing.api import licence_keys, licences, queries, webhooks, well_known


def router(edge: Edge, kept: Callable[[], None]) -> APIRouter:
    """The routes, on this edge. kept: called when messages of a provider are durable."""
    routes = APIRouter()
    routes.include_router(queries.router(edge))
    routes.include_router(licences.router(edge))
    routes.include_router(licence_keys.router(edge))
    routes.include_router(well_known.router(edge))
    routes.include_router(webhooks.router(edge, kept))
    return routes
