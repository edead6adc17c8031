"""Calls a service's HTTP with the caller's own key; every refusal becomes an error with a code and a next step."""

import time
from collections.abc import Mapping
from typing import Any, Self

import httpx

from paybill_cli.context import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode

TIMEOUT_S = 10.0
ATTEMPTS = 3
LONGEST_PAUSE_S = 5.0
PAGE = 200
"""The longest page that every service gives."""

_EXIT = {
    400: ExitCode.USAGE,
    401: ExitCode.DENIED,
    403: ExitCode.DENIED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    413: ExitCode.USAGE,
    422: ExitCode.USAGE,
    503: ExitCode.UNREACHABLE,
}
_NEXT = {
    "catalogue_refused": "correct the file, then: paybill plans diff FILE",
    "change_open": "paybill subscription changes, then: paybill subscription discard CHANGE",
    "database_unavailable": "paybill doctor, then the same command again",
    "dead_letter_not_found": "paybill events quarantine",
    "invalid_request": "correct it; the command's --help says what is wanted",
    "invalid_plans": "paybill plans lint FILE",
    "internal_error": "look for the trace id in the service's log, or run paybill doctor",
    "no_such_route": "check the URL: another service may listen there",
    "no_such_override_or_grant": "paybill entitlement show TENANT",
    "not_grantable": "paybill entitlement show TENANT",
    "not_ready": "wait a moment, then the same command again",
    "offerings_not_published": "wait a moment, then the same command again",
    "no_contract": "paybill manual offer TENANT",
    "not_waiting": "paybill webhook waiting",
    "nothing_offered": "paybill manual offer TENANT",
    "nothing_to_reactivate": "paybill subscription show SUBSCRIPTION",
    "move_runs": "paybill plans moves",
    "overloaded": "paybill doctor",
    "retention_unknown": "wait until billing has registered the account, then the same command again",
    "slug_reserved": "choose another slug",
    "slug_taken": "choose another slug, or look at whose it is: paybill tenant show SLUG",
    "tenant_left": "paybill tenant show TENANT",
    "tenant_not_found": "paybill tenant list",
    "unknown_change": "paybill subscription changes",
    "unknown_move": "paybill plans moves",
    "unknown_plan": "paybill plans list",
    "unknown_subscription": "paybill subscription list",
    "wrong_key": "check PAYBILL_API_KEY; `paybill up --new-key` makes a new one",
    "wrong_scope": "ask an admin for a key that may",
}


class Service:
    """One service, as the caller sees it. Use `with`."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.name = name
        self.url = stack.url(name)
        headers = {"Authorization": f"Bearer {stack.api_key()}", "User-Agent": "paybill-cli"}
        try:
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)
        except httpx.InvalidURL as error:
            raise usage(f"{self.url} is no URL", why=str(error), next=f"check --{name}-url") from error

    def __enter__(self) -> Self:
        """Nothing is sent yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the connections back."""
        self._http.close()

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """The answer's JSON."""
        given = {key: value for key, value in (query or {}).items() if value is not None}
        return self._answer("GET", path, params=given)

    def listed(
        self, path: str, name: str, query: Mapping[str, Any], limit: int | None = None
    ) -> tuple[list[dict[str, Any]], bool]:
        """The rows `name` of all pages, at most `limit`; and whether there are more."""
        found: list[dict[str, Any]] = []
        after: str | None = None
        while limit is None or len(found) < limit:
            size = PAGE if limit is None else min(limit - len(found), PAGE)
            page = self.get(path, {**query, "after": after, "limit": size})
            found += page[name]
            after = page["next"]
            if after is None:
                return found, False
        return found, True

    def post(self, path: str, body: Mapping[str, Any] | None = None, key: str = "") -> Any:
        """The answer's JSON. With an idempotency `key` it is sent again while the outcome is unknown."""
        headers = {"Idempotency-Key": key} if key else {}
        return self._answer("POST", path, json=body, headers=headers, again=bool(key))

    def send(self, path: str, content: bytes, type_: str, query: Mapping[str, Any], key: str = "") -> Any:
        """The answer to a file of this media type. With an idempotency `key`, as `post`."""
        headers = {"Content-Type": type_} | ({"Idempotency-Key": key} if key else {})
        return self._answer("POST", path, content=content, params=query, headers=headers, again=bool(key))

    def _answer(self, method: str, path: str, *, again: bool = True, **more: Any) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS or not again
            try:
                answer = self._http.request(method, path, **more)
            except httpx.ConnectError as error:
                raise self._unreachable(error) from error
            except httpx.HTTPError as error:
                if last:
                    raise self._unreachable(error) from error
                time.sleep(attempt)
                continue
            if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and not last:
                time.sleep(min(_seconds(answer.headers.get("Retry-After")), LONGEST_PAUSE_S))
                continue
            return self._read(answer)
        raise AssertionError("the last attempt returns or raises")

    def _read(self, answer: httpx.Response) -> Any:
        try:
            content = answer.json()
        except ValueError as error:
            raise CliError(
                "not_ours",
                f"{answer.request.method} {answer.request.url} answered {answer.status_code} without JSON",
                why="this is no service of Paybill, or something stands in between",
                next=f"check the URL of the {self.name} service",
            ) from error
        if answer.is_success:
            return content
        problem = content if isinstance(content, dict) else {}
        code = str(problem.get("code", f"http_{answer.status_code}"))
        raise CliError(
            code,
            str(problem.get("detail", answer.reason_phrase)),
            next=_NEXT.get(code, ""),
            exit_code=_EXIT.get(answer.status_code, ExitCode.FAILED),
            trace_id=str(problem.get("trace_id", "")),
        )

    def _unreachable(self, error: httpx.HTTPError) -> CliError:
        return CliError(
            "service_unreachable",
            f"the {self.name} service does not answer at {self.url}",
            why=str(error) or type(error).__name__,
            next="paybill doctor",
            exit_code=ExitCode.UNREACHABLE,
        )


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdigit() else 1.0
