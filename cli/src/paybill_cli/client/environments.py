"""Reads the environment of a tenant for commands about the tenant."""

from typing import Any

from paybill_cli.client.http import Service, get_or_none
from paybill_cli.client.stack import Stack
from paybill_cli.errors import CliError


def pending_or_refused(stack: Stack, tenant_id: str) -> Any:
    """Returns the change of a tenant's environment that is pending, or its refusal.

    None when there is neither, or the provisioner does not answer.
    """
    try:
        with Service(stack, "provisioner") as provisioner:
            found = get_or_none(provisioner, f"/v1/environments/{tenant_id}")
    except CliError:
        return None
    return found and (found["pending"] or found["refusal"])
