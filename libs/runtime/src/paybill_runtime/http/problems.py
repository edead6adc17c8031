"""Every refusal over HTTP is a problem+json (RFC 9457) with a stable code and the trace to look for."""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from paybill_contracts.errors import ConflictError, DomainError, ForbiddenError, NotFoundError, RetryLaterError
from starlette.exceptions import HTTPException

from paybill_runtime.errors import DatabaseUnavailableError, OverloadedError, UnknownOutcomeError, is_unstorable
from paybill_runtime.telemetry import trace_var

log = logging.getLogger(__name__)

RETRY_AFTER_S = 2
_TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    413: "Too large",
    422: "Refused",
    429: "Too many requests",
    500: "Internal error",
    503: "Not available now",
}


class Problem(Exception):  # noqa: N818  # the RFC's own word
    """An answer that says no, for edges that have no rule of the domain to raise."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


def problem(status: int, code: str, detail: str, more: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer: type, title, status, detail, code and trace id; `more` are headers."""
    headers = dict(more or {})
    if status == 503:  # noqa: PLR2004  # RFC 9110, section 15.6.4
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status == 401:  # noqa: PLR2004  # RFC 9110, section 15.5.2
        headers["WWW-Authenticate"] = "Bearer"
    body = {
        "type": f"urn:paybill:problem:{code}",
        "title": _TITLES.get(status, "Problem"),
        "status": status,
        "detail": detail,
        "code": code,
        "trace_id": trace_var.get(),
    }
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def status_of(error: DomainError) -> int:
    """The HTTP status of a kind of refusal."""
    match error:
        case NotFoundError():
            return 404
        case ConflictError():
            return 409
        case ForbiddenError():
            return 403
        case RetryLaterError():
            return 503
        case _:
            return 422


def install(app: FastAPI) -> None:
    """Answer every error of this app as a problem."""

    @app.exception_handler(Problem)
    async def _problem(_: Request, error: Problem) -> JSONResponse:
        return problem(error.status, error.code, error.detail)

    @app.exception_handler(DomainError)
    async def _refused(_: Request, error: DomainError) -> JSONResponse:
        return problem(status_of(error), error.code, str(error))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()[:5])
        return problem(422, "invalid_request", said)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        code = {404: "no_such_route", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        return problem(error.status_code, code, str(error.detail), error.headers)

    @app.exception_handler(DatabaseUnavailableError)
    async def _away(_: Request, error: DatabaseUnavailableError) -> JSONResponse:
        return unexpected(error)

    @app.exception_handler(OverloadedError)
    async def _overloaded(_: Request, error: OverloadedError) -> JSONResponse:
        return problem(503, "overloaded", str(error))


def unexpected(error: Exception) -> JSONResponse:
    """The answer to what no rule and no route foresees. It tells nothing of what is inside."""
    match error:
        case Problem():
            return problem(error.status, error.code, error.detail)
        case UnknownOutcomeError():
            return problem(
                503,
                "outcome_unknown",
                "the database went away while this was being saved; look whether it happened, "
                "or send it again with the same Idempotency-Key",
            )
        case DatabaseUnavailableError():
            return problem(
                503, "database_unavailable", "the database does not answer; nothing was changed, send it again"
            )
    if is_unstorable(error):
        return problem(422, "invalid_request", "the request holds a character that cannot be kept, such as NUL")
    log.error("a request failed", exc_info=error)
    return problem(500, "internal_error", "this is a fault of ours; the trace id finds it in the logs")
