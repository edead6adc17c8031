"""Finds a subscription by its id, or by its tenant."""

import re
from typing import Any

from paybill_cli import formatting
from paybill_cli.client.http import Service
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import tenant_id
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode

_SUBSCRIPTION = re.compile(r"sub_[0-9a-f]{32}")


def find_subscription(stack: Stack, billing: Service, name: str) -> dict[str, Any]:
    """Returns the subscription with this id, or the only one of the tenant with this name."""
    if _SUBSCRIPTION.fullmatch(name):
        found: dict[str, Any] = billing.get(f"/v1/subscriptions/{name}")
        return found
    account = billing.get(f"/v1/tenants/{tenant_id(stack, name)}/account")
    current = [one for one in account["subscriptions"] if one["access"] != "ended"] or account["subscriptions"]
    if len(current) != 1:
        ids = ", ".join(f"{one['subscription_id']} ({formatting.plan(one['plan'])})" for one in current)
        raise CliError(
            "several_subscriptions" if current else "no_subscription",
            f"{name} has several subscriptions: {ids}" if current else f"{name} has no subscription yet",
            next=f"paybill subscription show {current[0]['subscription_id']}"
            if current
            else f"paybill tenant show {name}",
            exit_code=ExitCode.USAGE if current else ExitCode.NOT_FOUND,
        )
    one: dict[str, Any] = current[0]
    return one
