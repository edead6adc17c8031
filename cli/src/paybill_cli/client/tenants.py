"""Finds a tenant by slug or id."""

import re

from paybill_cli.client.http import Service
from paybill_cli.client.stack import Stack
from paybill_cli.errors import usage

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
