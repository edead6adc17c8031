"""Completes tenants, plans, regions and contexts in the shell, as the stack of the command line has them."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer

MAX_TENANTS = 1000


def tenants(ctx: typer.Context, incomplete: str) -> list[str]:
    """Returns the slugs of tenants that begin with `incomplete`."""
    return _matching(ctx, incomplete, "tenant", _slugs)


def plans(ctx: typer.Context, incomplete: str) -> list[str]:
    """Returns the plans on sale that begin with `incomplete`."""
    return _matching(ctx, incomplete, "billing", plan_names)


def versions(ctx: typer.Context, incomplete: str) -> list[str]:
    """Returns the plan versions, on sale or retired, that begin with `incomplete`."""
    return _matching(ctx, incomplete, "billing", _version_names)


def plans_and_versions(ctx: typer.Context, incomplete: str) -> list[str]:
    """Returns the plans on sale that begin with `incomplete`; after an `@`, the plan versions."""
    return versions(ctx, incomplete) if "@" in incomplete else plans(ctx, incomplete)


def regions(ctx: typer.Context, incomplete: str) -> list[str]:
    """Returns the regions of the blueprint that begin with `incomplete`."""
    return _matching(ctx, incomplete, "provisioner", region_names)


def contexts(incomplete: str) -> list[str]:
    """Returns the names of contexts that begin with `incomplete`."""
    from paybill_cli.client import contexts as stored
    from paybill_cli.errors import CliError

    try:
        return sorted(name for name in stored.load().contexts if name.startswith(incomplete))
    except CliError:
        # As below: an unreadable file completes nothing, and the command itself explains it.
        return []


def _slugs(service: Any) -> Iterable[str]:
    found, _ = service.list_rows("/v1/tenants", "tenants", {}, MAX_TENANTS)
    return [tenant["slug"] for tenant in found]


def plan_names(service: Any) -> Iterable[str]:
    """Returns the plans on sale."""
    return {plan["plan"] for plan in service.get("/v1/catalogue")["plans"]}


def _version_names(service: Any) -> Iterable[str]:
    catalogue = service.get("/v1/catalogue")
    return {f"{each['plan']}@{each['version']}" for each in (*catalogue["plans"], *catalogue["retired"])}


def region_names(service: Any) -> list[str]:
    """Returns the regions of the blueprint."""
    regions: list[str] = service.get("/v1/blueprint")["content"]["regions"]
    return regions


def _matching(ctx: typer.Context, incomplete: str, name: str, names: Callable[[Any], Iterable[str]]) -> list[str]:
    from paybill_stack.errors import StackError

    from paybill_cli.client.http import Service
    from paybill_cli.client.stack import Stack
    from paybill_cli.command import is_given
    from paybill_cli.errors import CliError

    defaults = Stack()
    given = {each.name for each in fields(Stack) if is_given(ctx, each.name)}
    values = {each.name: getattr(defaults, each.name) for each in fields(Stack)}
    values |= {key: _converted(key, ctx.params[key]) for key in given}
    try:
        with Service(Stack.of(values, given), name) as service:
            return sorted(each for each in names(service) if each.startswith(incomplete))
    except (CliError, StackError):
        # A shell shows no errors while somebody types: without a stack there is nothing to complete.
        return []


def _converted(key: str, value: Any) -> Any:
    return Path(value) if key.endswith(("_dir", "_file")) else value
