"""HTTP: what operators and clients may look at, and where providers send their messages."""

from collections.abc import Callable, Mapping

from fastapi import APIRouter
from paybill_runtime.http import Edge

from paybill_billing.api import (
    catalogue,
    changes,
    entitlements,
    licence_keys,
    licences,
    manual,
    messages,
    moves,
    portal,
    providers,
    queries,
    reconciliation,
    usage,
    usage_windows,
    webhooks,
    well_known,
)
from paybill_billing.effects import Connected, Lists


def router(
    edge: Edge, connected: Mapping[str, Connected], kept: Callable[[str], None], asked: Callable[[], None]
) -> APIRouter:
    """The routes, on this edge.

    connected: the providers. kept: called with the one whose messages are durable. asked: called when everything at a
    provider is to be compared.
    """
    listed = frozenset(name for name, one in connected.items() if isinstance(one.provider, Lists))
    inbound = {name: one.inbound for name, one in connected.items() if one.inbound is not None}
    routes = APIRouter()
    routes.include_router(queries.router(edge))
    routes.include_router(manual.router(edge))
    routes.include_router(providers.router(edge, connected))
    routes.include_router(portal.router(edge, connected))
    routes.include_router(catalogue.router(edge))
    routes.include_router(entitlements.router(edge))
    routes.include_router(changes.router(edge))
    routes.include_router(moves.router(edge))
    routes.include_router(licences.router(edge))
    routes.include_router(licence_keys.router(edge))
    routes.include_router(well_known.router(edge))
    routes.include_router(usage.router(edge))
    routes.include_router(usage_windows.router(edge))
    routes.include_router(messages.router(edge))
    routes.include_router(reconciliation.router(edge, listed, asked))
    routes.include_router(webhooks.router(edge, inbound, kept))
    return routes
