"""`paybill agent new | list | end`: the agents of tenants and their keys."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from paybill_cli import completion
from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import tenant_id, with_tenant, with_tenants
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions, Limit, OnlyTenant, RequestOptions
from paybill_cli.output import Output

PATH = "/v1/agents"
COLUMNS = ("id", "name", "tenant", "role", "status", "registered_by", "expires_at")
_ID = re.compile(r"agt_[0-9a-f]{32}")
_LIFETIME = re.compile(r"([1-9][0-9]{0,3})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}

Agent = Annotated[str, typer.Argument(help="Id of the agent, agt_….", metavar="AGENT")]


def new(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    name: Annotated[str, typer.Argument(help="Name of the agent, such as helpdesk.", metavar="NAME")],
    tenant: Annotated[
        str,
        typer.Option("--tenant", help="Tenant that it works for: slug or id.", autocompletion=completion.tenants),
    ],
    role: Annotated[str, typer.Option("--role", help="Its role in the bundle: the grants and workflows that it gets.")],
    expires: Annotated[str, typer.Option("--expires", help="Time until its end, such as 12h or 90d.")] = "90d",
) -> None:
    """Register an agent of one tenant; its key is shown only now.

    The key is accepted by the agent gateway alone: it starts and continues runs of the role's workflows.

    Example: paybill agent new helpdesk --tenant acme --role support
    """
    lifetime = _LIFETIME.fullmatch(expires)
    if lifetime is None:
        raise usage(f"{expires!r} is no time such as 12h or 90d", next="paybill agent new --help")
    body = {
        "tenant": tenant_id(stack, tenant),
        "name": name,
        "role": role,
        "lifetime_s": int(lifetime[1]) * _SECONDS[lifetime[2]],
    }
    with Service(stack, "agent-gateway") as gateway:
        if options.dry_run:
            preview(out, gateway, PATH, body, options.idempotency_key)
            return
        made = post(out, gateway, PATH, body, options.idempotency_key)
        address = f"{gateway.url}/mcp"
    if made["key"] is None:
        raise CliError(
            "key_not_shown_again",
            f"{made['id']} was registered by an earlier attempt, whose response alone had the key",
            next=f"paybill agent end {made['id']}",
            exit_code=ExitCode.CONFLICT,
        )
    shown = with_tenant(out, stack, made) | {"address": address}
    out.record("agent.registered", shown, (*COLUMNS, "address", "key"))
    out.info("the key is shown only now: an MCP client sends it as the bearer token to the address")
    out.info(f"next: paybill agent runs --agent {made['id']}")


def list_all(out: Output, stack: Stack, tenant: OnlyTenant = None, limit: Limit = 100) -> None:
    """List agents, also ended ones.

    Example: paybill agent list --tenant acme
    """
    query = {"tenant": tenant and tenant_id(stack, tenant)}
    with Service(stack, "agent-gateway") as gateway:
        found, more = gateway.list_rows(PATH, "agents", query, limit)
    out.rows("agent.list", with_tenants(out, stack, found), COLUMNS)
    if more:
        out.more(limit)


def end(out: Output, stack: Stack, options: ConfirmedOptions, agent: Agent) -> None:
    """End an agent: its key is refused from now on.

    This cannot be undone; register another agent instead.

    Example: paybill agent end agt_0123456789abcdef0123456789abcdef --yes
    """
    path = f"{PATH}/{agent_id(agent)}"
    with Service(stack, "agent-gateway") as gateway:
        if options.dry_run:
            preview(out, gateway, f"{path}/end", None, options.idempotency_key)
            return
        found: Mapping[str, Any] = with_tenant(out, stack, gateway.get(path))
        out.confirm(f"End the agent {found['name']} ({agent})?", yes=options.yes)
        done = post(out, gateway, f"{path}/end", None, options.idempotency_key)
    out.record("agent.ended", with_tenant(out, stack, done), COLUMNS)


def agent_id(text: str) -> str:
    """Returns the id of an agent. Raises a usage error for another text."""
    if not _ID.fullmatch(text):
        raise usage(f"{text!r} is not an id of an agent", next="paybill agent list")
    return text


def agent_named(stack: Stack, text: str) -> str:
    """Returns the id of an agent by its id or name. Raises CliError unless exactly one that has not ended has it."""
    if _ID.fullmatch(text):
        return text
    with Service(stack, "agent-gateway") as gateway:
        found, _ = gateway.list_rows(PATH, "agents", {"name": text}, 100)
    active = [each["id"] for each in found if each["status"] != "ended"]
    if len(active) == 1:
        return str(active[0])
    if active:
        raise usage(f"{len(active)} agents have the name {text}: {', '.join(active[:3])}", next="paybill agent list")
    raise CliError(
        "agent_unknown", f"no agent has the id or name {text}", next="paybill agent list", exit_code=ExitCode.NOT_FOUND
    )
