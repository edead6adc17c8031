"""Fast routes: endpoints that are called by the server itself, without the layers and the router of FastAPI."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

FastRoutes = Mapping[str, ASGIApp]
"""ASGI endpoints that answer a POST, by path."""


class FastRouter:
    """ASGI application in front of another: a POST to the path of a fast route is answered by it."""

    def __init__(self, routes: FastRoutes, app: ASGIApp) -> None:
        self._routes = routes
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        route = self._routes.get(scope["path"]) if scope["method"] == "POST" else None
        await (route or self._app)(scope, receive, send)
