"""Router whose routes are analysed at their first request.

FastAPI builds validators for each parameter of a route when it is declared: for all routes of billing this takes
0.2 s of each start, and memory for routes that most processes never serve.
"""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import compile_path, get_name


class LazyRoute(APIRoute):
    """Route that knows its path and methods, and everything else after the first access to it.

    A wrong declaration fails there: the tests read the OpenAPI document of each service, which needs every route.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **declared: Any) -> None:
        self._declared = (path, endpoint, declared)
        self.path, self.endpoint = path, endpoint
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self.methods = {method.upper() for method in declared.get("methods") or ("GET",)}
        self.name = declared.get("name") or get_name(endpoint)

    def __getattr__(self, name: str) -> Any:
        """Analyses the route: Python calls this only for an attribute that is missing."""
        if "_declared" not in self.__dict__:
            raise AttributeError(name, name=name, obj=self)
        path, endpoint, declared = self.__dict__.pop("_declared")
        super().__init__(path, endpoint, **declared)
        return getattr(self, name)


class Router(APIRouter):
    """Router for the API of a service."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=LazyRoute, **options)
