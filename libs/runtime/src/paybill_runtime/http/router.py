"""Router whose routes are analysed at their first request.

FastAPI builds validators for each parameter of a route when it is declared: for all routes of billing this takes
0.2 s of each start, and memory for routes that most processes never serve.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import compile_path, get_name
from typing_extensions import override

from paybill_runtime.http.documented_problems import CODES
from paybill_runtime.http.problems import Problems, RefusedBodyError
from paybill_runtime.http.strict_json import JsonError, read_json


class StrictRequest(Request):
    """Request whose JSON has one meaning: another program cannot read another value in it."""

    @override
    async def json(self) -> Any:
        """Returns the value of the body. Raises RefusedBodyError."""
        try:
            return read_json(await self.body())
        except JsonError as error:
            raise RefusedBodyError(error.code, f"the body is refused: {error}") from None


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

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict


class Router(APIRouter):
    """Router for the API of a service. problems: codes of the `Problem`s that its routes raise, by status."""

    def __init__(self, problems: Problems | None = None, **options: Any) -> None:
        declared: dict[int | str, dict[str, Any]] = {
            status: {"description": "", CODES: list(codes)} for status, codes in (problems or {}).items()
        }
        super().__init__(route_class=LazyRoute, responses=declared, **options)
