"""`paybill agent new | list | end`: the agents of tenants and their keys."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from paybill_cli import completion
from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import Slugs, tenant_id, with_tenant, with_tenants
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions, Limit, OnlyTenant, RequestOptions
from paybill_cli.output import Output

PATH = "/v1/agents"
COLUMNS = ("id", "name", "tenant", "role", "status", "registered_by", "expires_at")
_ID = re.compile(r"agt_[0-9a-f]{32}")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
MAX_CANDIDATES = 5
_LIFETIME = re.compile(r"([1-9][0-9]{0,3})([mhd])")
MAX_LIFETIME_S = 366 * 86_400
"""The longest that the agent gateway accepts."""
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}

Agent = Annotated[str, typer.Argument(help="Id of the agent, agt_…, or its name.", metavar="AGENT")]


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
    expires: Annotated[
        str, typer.Option("--expires", help="Time until its end, such as 12h or 90d; at most 366d.")
    ] = "90d",
) -> None:
    """Register an agent of one tenant; its key is shown only now.

    The key is accepted by the agent gateway alone: it starts and continues runs of the role's workflows.

    Example: paybill agent new helpdesk --tenant acme --role support
    """
    lifetime = _LIFETIME.fullmatch(expires)
    if lifetime is None:
        raise usage(f"--expires: {expires!r} is no time such as 12h or 90d", next="paybill agent new --help")
    lifetime_s = int(lifetime[1]) * _SECONDS[lifetime[2]]
    if lifetime_s > MAX_LIFETIME_S:
        raise usage(f"--expires: {expires} is longer than 366d", next="paybill agent new --help")
    body = {
        "tenant": tenant_id(stack, tenant),
        "name": name,
        "role": role,
        "lifetime_s": lifetime_s,
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


def end(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    agent: Agent,
    tenant: OnlyTenant = None,
) -> None:
    """End an agent: its key is refused from now on.

    This cannot be undone; register another agent instead.

    Example: paybill agent end agt_0123456789abcdef0123456789abcdef --yes
    """
    path = f"{PATH}/{agent_named(stack, agent, tenant)}"
    with Service(stack, "agent-gateway") as gateway:
        if options.dry_run:
            preview(out, gateway, f"{path}/end", None, options.idempotency_key)
            return
        found: Mapping[str, Any] = with_tenant(out, stack, gateway.get(path))
        out.confirm(f"End the agent {found['name']} ({found['id']})?", yes=options.yes)
        done = post(out, gateway, f"{path}/end", None, options.idempotency_key)
    out.record("agent.ended", with_tenant(out, stack, done), COLUMNS)


def agent_named(stack: Stack, text: str, tenant: str | None = None, *, has_ended: bool = False) -> str:
    """Returns the id of the agent with this id or name. Raises CliError unless exactly one has it.

    tenant: of the agent, when agents of several tenants have the name. has_ended: finds one that has ended, too, if no
    other one has the name.
    """
    if _ID.fullmatch(text):
        return text
    if not _NAME.fullmatch(text):
        raise usage(f"{text!r} is neither an id nor a name of an agent", next="paybill agent list")
    query = {"name": text, "tenant": tenant and tenant_id(stack, tenant)}
    with Service(stack, "agent-gateway") as gateway:
        named, _ = gateway.list_rows(PATH, "agents", query)
    found = [each for each in named if each["ended_at"] is None]
    if has_ended and not found:
        found = named
    if not found:
        others = f"; {len(named)} with this name have ended" if named else ""
        raise CliError(
            "agent_unknown",
            f"no agent has the id or name {text}{others}",
            next="paybill agent list",
            exit_code=ExitCode.NOT_FOUND,
        )
    if len(found) > 1:
        candidates = Slugs(stack).within([f"{each['id']} of {each['tenant_id']}" for each in found[:MAX_CANDIDATES]])
        more = f" and {len(found) - MAX_CANDIDATES} more" if len(found) > MAX_CANDIDATES else ""
        raise usage(
            f"{len(found)} agents have the name {text}; repeat the command with an id: {', '.join(candidates)}{more}",
            next="paybill agent list",
        )
    return str(found[0]["id"])
