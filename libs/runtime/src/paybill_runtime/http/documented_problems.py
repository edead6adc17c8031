"""Completes an OpenAPI document: the statuses and codes that each route can answer, as problem+json.

Nobody lists them route by route: the server and the middleware answer some to every request, and the parameters, the
body, the API key and the method of a route decide the others. A router declares the codes of its own `Problem`s.
"""

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from paybill_contracts.errors import DomainError

from paybill_runtime.http.dry_run import DryRunView
from paybill_runtime.http.problems import ANY_CODE, TITLES, Problems, status_of_kind

MEDIA_TYPE = "application/problem+json"
CODES = "codes"
"""Key of a declared response: the codes of its problems."""
_EVERYWHERE: Problems = {
    400: ("bad_request",),
    405: ("method_not_allowed",),
    408: ("too_slow",),
    413: ("too_large",),
    431: ("too_large",),
    500: ("internal_error",),
    503: ("overloaded", "database_unavailable", "outcome_unknown"),
}
"""Answered by the server, the middleware and the router of FastAPI, whatever the route is."""
_BODY: Problems = {400: ("invalid_json", "repeated_key", "too_many_keys", "number_out_of_range", "invalid_text")}
_KEY: Problems = {
    400: ("invalid_idempotency_key",),
    401: ("no_key", "wrong_key"),
    403: ("wrong_scope", "key_bound_to_tenant"),
    404: (),
    503: ("keys_unavailable",),
}
_CHANGE: Problems = {409: (), 422: (), 503: ("log_and_state_disagree",)}
_NAMED: Problems = {404: (), 409: ()}
"""Of a route with a path parameter: what it names is absent, or in a state that excludes the request."""
_INPUT: Problems = {404: ("no_such_route",), 422: ("invalid_request",)}
_HEADERS = {
    401: {"WWW-Authenticate": "The scheme: `Bearer`."},
    405: {"Allow": "The methods of this path."},
    503: {"Retry-After": "Seconds until it should be sent again."},
}
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "An error (RFC 9457). Programs decide by `code`, which is stable; `detail` is for people.",
    "required": ["type", "title", "status", "detail", "code", "trace_id"],
    "properties": {
        "type": {"type": "string", "description": "`urn:paybill:problem:<code>`."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "trace_id": {"type": "string", "description": "Names the request in the logs."},
    },
}
_OF_FASTAPI = {"application/json": {"schema": {"$ref": "#/components/schemas/HTTPValidationError"}}}
"""Documented by FastAPI for a request that is invalid, and never sent."""
_METHODS = ("get", "put", "post", "delete", "patch")


def complete(document: dict[str, Any], service: str) -> dict[str, Any]:
    """Adds what the routes of `service` can answer to its document, and returns it."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = _PROBLEM
    refusals = refusal_codes(service)
    responses = components.setdefault("responses", {})
    for item in document.get("paths", {}).values():
        for method in _METHODS:
            if method in item:
                _complete(item[method], refusals, responses, changes=method != "get")
                _add_dry_run(item[method], schemas)
    return document


def refusal_codes(service: str) -> Problems:
    """Returns the codes of the domain errors that a service can raise, by status."""
    packages = ("paybill_contracts", "paybill_definitions", "paybill_runtime", f"paybill_{service.replace('-', '_')}")
    found: dict[int, set[str]] = {}
    for kind in _kinds(DomainError):
        if kind.__module__.startswith(packages):
            found.setdefault(status_of_kind(kind), set()).add(kind.code)
    return {status: tuple(sorted(codes)) for status, codes in found.items()}


def _kinds(kind: type[DomainError]) -> Iterator[type[DomainError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)


def _complete(operation: dict[str, Any], refusals: Problems, shared: dict[str, Any], *, changes: bool) -> None:
    parameters = operation.get("parameters", [])
    has_body = "requestBody" in operation
    parts: list[Problems] = [_EVERYWHERE]
    if operation.get("security"):
        parts.append(_KEY)
    if has_body:
        parts.append(_BODY)
    if changes:
        parts.append(_CHANGE)
    if any(each["in"] == "path" for each in parameters):
        parts.append(_NAMED)
    if has_body or any(each["in"] != "header" for each in parameters):
        parts.append(_INPUT)
    elif parameters:
        parts.append({422: _INPUT[422]})
    answered = operation["responses"]
    errors = {int(status): response for status, response in answered.items() if status >= "400"}
    parts.append({status: response.get(CODES, ()) for status, response in errors.items()})
    for status in sorted({status for part in parts for status in part}):
        codes = {code for part in (refusals, *parts) for code in part.get(status, ())}
        own = errors.get(status, {}).get("content", {})
        response = _response(status, sorted(codes), own if own != _OF_FASTAPI else {})
        answered[str(status)] = {"$ref": f"#/components/responses/{_shared_name(shared, status, response)}"}


def _shared_name(shared: dict[str, Any], status: int, response: dict[str, Any]) -> str:
    """Returns the name of a shared response, which is added if no route before had the same."""
    names = (f"{status}-{number}" if number else f"{status}" for number in count())
    return next(name for name in names if shared.setdefault(name, response) == response)


def _response(status: int, codes: list[str], own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a response. own: of a route that answers some errors in another format, by media type."""
    known: dict[str, Any] = {"status": {"const": status}}
    if ANY_CODE not in codes:
        known["code"] = {"enum": codes}
    schema = {"allOf": [{"$ref": "#/components/schemas/Problem"}, {"properties": known}]}
    described: dict[str, Any] = {"description": TITLES[status], "content": {MEDIA_TYPE: {"schema": schema}, **own}}
    if status in _HEADERS:
        described["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS[status].items()
        }
    return described


def _add_dry_run(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Adds the response to a dry run, which is a 200 whatever the status of the change itself is."""
    if not any(each["name"] == "dry-run" and each["in"] == "header" for each in operation.get("parameters", [])):
        return
    view = DryRunView.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    schemas.update(view.pop("$defs", {}))
    schemas[DryRunView.__name__] = view
    dry_run = {"$ref": f"#/components/schemas/{DryRunView.__name__}"}
    answered: dict[str, Any] = operation["responses"].setdefault("200", {"description": "The outcome of a dry run."})
    content = answered.setdefault("content", {}).setdefault("application/json", {})
    content["schema"] = {"anyOf": [content["schema"], dry_run]} if content.get("schema") else dry_run
