"""Error responses: problem+json (RFC 9457) with a stable code and the trace id."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from paybill_contracts.errors import ConflictError, DomainError, ForbiddenError, NotFoundError, RetryLaterError
from paybill_contracts.validation_messages import plain_message
from starlette.exceptions import HTTPException
from starlette.routing import Route

from paybill_runtime.errors import (
    DatabaseFullError,
    DatabaseUnavailableError,
    OverloadedError,
    UnknownOutcomeError,
    is_unstorable,
)
from paybill_runtime.telemetry import trace_var

log = logging.getLogger(__name__)

RETRY_AFTER_S = 2
TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    406: "Not acceptable",
    409: "Conflict",
    413: "Too large",
    415: "Wrong content type",
    422: "Refused",
    429: "Too many requests",
    431: "Too large",
    500: "Internal error",
    502: "Refused by the provider",
    503: "Not available now",
}
Problems = Mapping[int, Sequence[str]]
"""Codes of problems by their status."""
ANY_CODE = "*"
"""In place of the codes of a status that are not all known here, because a plug-in decides on them."""


_STATUSES: Mapping[type[DomainError], int] = {
    NotFoundError: 404,
    ConflictError: 409,
    ForbiddenError: 403,
    RetryLaterError: 503,
}


class RefusedBodyError(HTTPException):
    """The body of a request is refused before its route receives it. FastAPI passes on this kind of error only."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(400, detail)
        self.code = code


class Problem(Exception):  # noqa: N818  # the RFC's own word
    """An error response for routes, where no domain error applies."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


def problem(
    status: int,
    code: str,
    detail: str,
    more: Mapping[str, str] | None = None,
    extensions: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """Returns the response: type, title, status, detail, code and trace id; `more` are headers, `extensions` follow."""
    headers = dict(more or {})
    if status == 503:  # noqa: PLR2004  # RFC 9110, section 15.6.4
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status == 401:  # noqa: PLR2004  # RFC 9110, section 15.5.2
        headers["WWW-Authenticate"] = "Bearer"
    body = {
        "type": f"urn:paybill:problem:{code}",
        "title": TITLES.get(status, "Problem"),
        "status": status,
        "detail": detail,
        "code": code,
        "trace_id": trace_var.get(),
        **(extensions or {}),
    }
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def status_of(error: DomainError) -> int:
    """Returns the HTTP status of a domain error."""
    return status_of_kind(type(error))


def status_of_kind(kind: type[DomainError]) -> int:
    """Returns the HTTP status of a kind of domain error."""
    for each, status in _STATUSES.items():
        if issubclass(kind, each):
            return status
    return 422


def allowed_methods(app: FastAPI, path: str) -> set[str]:
    """Returns the methods of the routes with the most literal path that matches, and HEAD where it has GET."""
    by_path: dict[str, set[str]] = {}
    for route in app.routes:
        if isinstance(route, Route) and route.methods and route.path_regex.match(path):
            by_path.setdefault(route.path_format, set()).update(route.methods)
    found = by_path[min(by_path, key=lambda each: each.count("{"))] if by_path else set()
    return found | ({"HEAD"} if "GET" in found else set())


def install(app: FastAPI) -> None:
    """Registers handlers that answer every error of this app as a problem."""

    @app.exception_handler(Problem)
    async def _problem(_: Request, error: Problem) -> JSONResponse:
        return problem(error.status, error.code, error.detail)

    @app.exception_handler(DomainError)
    async def _refused(_: Request, error: DomainError) -> JSONResponse:
        return problem(status_of(error), error.code, str(error), extensions=error.details)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        detail = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'][1:] or item['loc'])}: {plain_message(item)}"  # not `body.`
            for item in error.errors()[:5]
        )
        return problem(422, "invalid_request", detail)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        headers = error.headers
        if error.status_code == 405:  # noqa: PLR2004  # the router names the methods of one route only
            headers = {"Allow": ", ".join(sorted(allowed_methods(app, request.url.path)))}
        code = {404: "no_such_route", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        code = error.code if isinstance(error, RefusedBodyError) else code
        return problem(error.status_code, code, str(error.detail), headers)

    @app.exception_handler(DatabaseUnavailableError)
    async def _unavailable(_: Request, error: DatabaseUnavailableError) -> JSONResponse:
        return unexpected(error)

    @app.exception_handler(OverloadedError)
    async def _overloaded(_: Request, error: OverloadedError) -> JSONResponse:
        return unexpected(error)


def unexpected(error: Exception) -> JSONResponse:
    """Returns the response to an error that is no domain error. It contains no internals."""
    match error:
        case Problem():
            return problem(error.status, error.code, error.detail)
        case OverloadedError():
            return problem(503, "overloaded", str(error))
        case UnknownOutcomeError():
            return problem(
                503,
                "outcome_unknown",
                "the database disconnected during the commit; check whether the change was made, "
                "or send it again with the same Idempotency-Key",
            )
        case DatabaseFullError():
            return problem(
                503, "disk_full", "the database has no space on its disk; nothing was changed, send it again later"
            )
        case DatabaseUnavailableError():
            return problem(
                503, "database_unavailable", "the database does not answer; nothing was changed, send it again"
            )
    if is_unstorable(error):
        return problem(422, "invalid_request", "the request contains a character that cannot be stored, such as NUL")
    log.error("a request failed", exc_info=error)
    return problem(500, "internal_error", "the service failed; find the cause in the logs by the trace id")
