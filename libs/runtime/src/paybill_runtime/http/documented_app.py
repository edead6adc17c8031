"""FastAPI application whose OpenAPI document is rendered once."""

from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from starlette.requests import Request
from starlette.routing import Route

from paybill_runtime.http.documented_problems import complete

_DESCRIPTION = "Every GET route answers HEAD, too: with the same status and headers, and no body."


def openapi_of(app: FastAPI, service: str) -> dict[str, Any]:
    """Returns the OpenAPI document of a service, with every status that its routes can answer."""
    return complete(app.openapi(), service)


def documented_app(service: str, **settings: Any) -> FastAPI:
    """Returns an application that serves its pages from here, and nothing from other hosts.

    All responses with the OpenAPI document share its bytes. FastAPI renders it for each request, and garbage keeps the
    copies: 1,500 requests for billing's 220 kB, which nobody read, used 340 MB.
    """
    app: FastAPI = FastAPIOffline(title=f"Paybill {service}", description=_DESCRIPTION, **settings)
    rendered: list[bytes] = []

    async def openapi(_: Request) -> Response:
        if not rendered:
            rendered.append(orjson.dumps(openapi_of(app, service)))
            app.openapi_schema = None  # it is several times as large
        return Response(rendered[0], media_type="application/json")

    # Before the route of FastAPI with the same path.
    app.router.routes.insert(0, Route(str(app.openapi_url), openapi, include_in_schema=False))
    return app
