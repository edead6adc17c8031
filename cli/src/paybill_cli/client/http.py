"""HTTP client of the services; maps every refusal to an error with a code and a next step."""

import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from paybill_cli.client.next_steps import next_step
from paybill_cli.client.stack import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 10.0
ATTEMPTS = 3
MAX_PAUSE_S = 5.0
PAGE = 200
"""Largest page size that every service accepts."""

_EXIT_CODES = {
    400: ExitCode.USAGE,
    401: ExitCode.DENIED,
    403: ExitCode.DENIED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    413: ExitCode.USAGE,
    422: ExitCode.USAGE,
    503: ExitCode.UNREACHABLE,
}


class Service:
    """One service, called with the caller's own key. Use `with`. The first request imports and opens the client."""

    def __init__(self, stack: Stack, name: str, *, timeout_s: float = TIMEOUT_S, attempts: int = ATTEMPTS) -> None:
        """attempts: of a request that may be repeated. timeout_s: of each attempt."""
        self.name = name
        self._timeout_s, self._attempts = timeout_s, attempts
        self.url = stack.url(name)
        self._headers = {"Authorization": f"Bearer {stack.api_key()}", "User-Agent": "paybill-cli"}

    @cached_property
    def _http(self) -> "httpx.Client":
        import httpx

        try:
            return httpx.Client(
                base_url=self.url,
                headers=self._headers,
                timeout=self._timeout_s,
                trust_env=False,
                verify=uses_tls(self.url),
            )
        except httpx.InvalidURL as error:
            raise usage(f"{self.url} is not a URL", why=str(error), next=f"check --{self.name}-url") from error

    def __enter__(self) -> Self:
        """Sends nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connections."""
        if "_http" in self.__dict__:
            self._http.close()

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """Returns the JSON of the response."""
        return self._request(
            "GET", path, params={key: value for key, value in (query or {}).items() if value is not None}
        )

    def list_rows(
        self, path: str, name: str, query: Mapping[str, Any], limit: int | None = None
    ) -> tuple[list[dict[str, Any]], bool]:
        """Returns the rows `name` of all pages, at most `limit`, and whether there are more."""
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

    def post(self, path: str, body: Mapping[str, Any] | None = None, key: str = "", *, dry_run: bool = False) -> Any:
        """Returns the JSON of the response. With an idempotency `key`, retries while the outcome is unknown."""
        headers = {"Idempotency-Key": key} if key else {}
        headers |= {"Dry-Run": "true"} if dry_run else {}
        return self._request("POST", path, json=body, headers=headers, retry=bool(key))

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """Returns the JSON of the response. Retries while the outcome is unknown."""
        return self._request("PUT", path, json=body)

    def delete(self, path: str) -> Any:
        """Returns the JSON of the response. Retries while the outcome is unknown."""
        return self._request("DELETE", path)

    def upload(
        self,
        path: str,
        content: bytes,
        media_type: str,
        query: Mapping[str, Any],
        key: str = "",
        *,
        dry_run: bool = False,
    ) -> Any:
        """Posts a file. With an idempotency `key`, retries like `post`."""
        headers = {"Content-Type": media_type} | ({"Idempotency-Key": key} if key else {})
        headers |= {"Dry-Run": "true"} if dry_run else {}
        return self._request("POST", path, content=content, params=query, headers=headers, retry=bool(key))

    def _request(self, method: str, path: str, *, retry: bool = True, **more: Any) -> Any:
        import httpx

        for attempt in range(1, self._attempts + 1):
            last = attempt == self._attempts or not retry
            try:
                response = self._http.request(method, path, **more)
            except httpx.ConnectError as error:
                raise self._unreachable(error) from error
            except httpx.HTTPError as error:
                if last:
                    raise self._unreachable(error) from error
                time.sleep(attempt)
                continue
            if response.status_code == httpx.codes.SERVICE_UNAVAILABLE and not last:
                time.sleep(min(_seconds(response.headers.get("Retry-After")), MAX_PAUSE_S))
                continue
            return self._content(response)
        raise AssertionError("the last attempt returns or raises")

    def _content(self, response: "httpx.Response") -> Any:
        try:
            content = response.json()
        except ValueError as error:
            raise CliError(
                "not_ours",
                f"{response.request.method} {response.request.url} answered {response.status_code} without JSON",
                why="this is not a Paybill service, or a proxy answered",
                next=f"check the URL of the {self.name} service",
            ) from error
        if response.is_success:
            return content
        problem = content if isinstance(content, dict) else {}
        code = str(problem.get("code", f"http_{response.status_code}"))
        raise CliError(
            code,
            str(problem.get("detail", response.reason_phrase)),
            next=next_step(code),
            exit_code=_EXIT_CODES.get(response.status_code, ExitCode.FAILED),
            trace_id=str(problem.get("trace_id", "")),
        )

    def _unreachable(self, error: "httpx.HTTPError") -> CliError:
        return CliError(
            "service_unreachable",
            f"the {self.name} service does not answer at {self.url}",
            why=str(error) or type(error).__name__,
            next="paybill doctor",
            exit_code=ExitCode.UNREACHABLE,
        )


def get_or_none(service: Service, path: str) -> Any:
    """Returns the JSON of the response; None when the object does not exist."""
    try:
        return service.get(path)
    except CliError as error:
        if error.exit_code is not ExitCode.NOT_FOUND:
            raise
        return None


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdigit() else 1.0


def uses_tls(url: str) -> bool:
    """Returns whether the server has to be verified: without it, the certificate authorities are not read (50 ms)."""
    return not url.startswith("http:")
