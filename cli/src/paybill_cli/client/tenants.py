"""Finds a tenant by slug or id, and the slugs of tenants in events."""

import re
from urllib.parse import quote

from paybill_cli.client.http import Service, get_or_none
from paybill_cli.client.stack import Stack
from paybill_cli.errors import CliError, usage

_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_ID = re.compile(r"ten_[0-9a-f]{32}")


def tenant_path(tenant: str) -> str:
    """Returns the HTTP path of a tenant; refuses a name that could change the path."""
    if not _NAME.fullmatch(tenant):
        raise usage(f"{tenant!r} is neither a slug nor an id", next="paybill tenant list")
    return f"/v1/tenants/{tenant}"


def tenant_id(stack: Stack, tenant: str) -> str:
    """Returns the id of a tenant; fetches it if `tenant` is a slug."""
    if _ID.fullmatch(tenant):
        return tenant
    path = tenant_path(tenant)
    with Service(stack, "tenant") as tenants:
        return str(tenants.get(path)["id"])


def tenants_of_customer(stack: Stack, customer: str) -> list[str]:
    """Returns the ids of the tenants that are this customer at a billing provider."""
    with Service(stack, "billing") as billing:
        paths = [
            f"/v1/providers/{one['name']}/customers/{quote(customer, safe='')}" for one in billing.get("/v1/providers")
        ]
        accounts = [get_or_none(billing, path) for path in paths]
    return [account["tenant_id"] for account in accounts if account is not None]


class Slugs:
    """Slugs of tenants by id: learnt from their first events, otherwise fetched once from the tenant service."""

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
