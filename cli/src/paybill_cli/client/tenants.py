"""Finds a tenant by slug or id, and the slugs of tenants in events."""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote

from paybill_cli.client.http import ATTEMPTS, PAGE, TIMEOUT_S, Service, get_or_none
from paybill_cli.client.stack import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.output import Output

_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_ID = re.compile(r"ten_[0-9a-f]{32}")
_SLUGS_TIMEOUT_S = 2.0

_NAMED: dict[str, str] = {}
"""Slugs by id of the tenants that this command named."""

T = TypeVar("T")


def tenant_path(tenant: str) -> str:
    """Returns the HTTP path of a tenant; refuses a name that could change the path."""
    if not _NAME.fullmatch(tenant):
        raise usage(f"{tenant!r} is neither a slug nor an id", next="paybill tenant list")
    return f"/v1/tenants/{tenant}"


def tenant_id(stack: Stack, tenant: str, *, timeout_s: float = TIMEOUT_S, attempts: int = ATTEMPTS) -> str:
    """Returns the id of a tenant; fetches it if `tenant` is a slug."""
    if _ID.fullmatch(tenant):
        return tenant
    path = tenant_path(tenant)
    with Service(stack, "tenant", timeout_s=timeout_s, attempts=attempts) as tenants:
        found = tenants.get(path)
    _NAMED[found["id"]] = found["slug"]
    return str(found["id"])


def with_named_slugs(text: str) -> str:
    """Returns a message with slugs in place of the ids of the tenants that this command named."""
    return _ID.sub(lambda match: _NAMED.get(match[0], match[0]), text)


def tenants_of_customer(stack: Stack, customer: str) -> list[str]:
    """Returns the ids of the tenants that are this customer at a billing provider."""
    with Service(stack, "billing") as billing:
        paths = [
            f"/v1/providers/{one['name']}/customers/{quote(customer, safe='')}" for one in billing.get("/v1/providers")
        ]
        accounts = [get_or_none(billing, path) for path in paths]
    return [account["tenant_id"] for account in accounts if account is not None]


class Slugs:
    """Slugs of tenants by id: learnt from their first events, otherwise fetched from the tenant service."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._slugs: dict[str, str] = {}

    def learn(self, tenant: str, slug: str) -> None:
        """Remembers the slug of a tenant."""
        self._slugs[tenant] = slug

    def of(self, tenant: str) -> str:
        """Returns the slug, or the id when the service does not answer or does not know the tenant."""
        if tenant not in self._slugs:
            try:
                with Service(self._stack, "tenant") as tenants:
                    self._slugs[tenant] = str(tenants.get(tenant_path(tenant))["slug"])
            except CliError:
                self._slugs[tenant] = tenant
        return self._slugs[tenant]

    def within(self, value: T) -> T:
        """Returns a value of a list or an object with slugs in place of the ids of tenants in its texts.

        All unknown ids are fetched together, a page of tenants in each request. They stay when the service does not
        answer in a short time.
        """
        unknown = sorted(set(_ID.findall(json.dumps(value, default=str))) - self._slugs.keys())
        if unknown:
            # A list without slugs is better than none.
            with suppress(CliError):
                self._fetch(unknown)
        replaced: T = self._replaced(value)
        return replaced

    def _fetch(self, ids: list[str]) -> None:
        with Service(self._stack, "tenant", timeout_s=_SLUGS_TIMEOUT_S, attempts=1) as tenants:
            for first in range(0, len(ids), PAGE):
                query = {"id": ids[first : first + PAGE], "limit": PAGE}
                for tenant in tenants.get("/v1/tenants", query)["tenants"]:
                    self.learn(tenant["id"], tenant["slug"])

    def _replaced(self, value: Any) -> Any:
        match value:
            case str():
                return _ID.sub(lambda match: self._slugs.get(match[0], match[0]), value)
            case Mapping():
                return {name: self._replaced(each) for name, each in value.items()}
            case list() | tuple():
                return [self._replaced(each) for each in value]
            case _:
                return value


def for_reading(out: Output, stack: Stack, value: T) -> T:
    """Returns what is printed for people, with slugs in place of ids of tenants; unchanged for programs."""
    return value if out.json else Slugs(stack).within(value)


def with_tenants(out: Output, stack: Stack, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows with slugs in place of ids, also as `tenant`; unchanged for programs."""
    found = [dict(row) for row in rows]
    return found if out.json else [row | {"tenant": row["tenant_id"]} for row in for_reading(out, stack, found)]


def with_tenant(out: Output, stack: Stack, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns one row of `with_tenants`."""
    return with_tenants(out, stack, [row])[0]
