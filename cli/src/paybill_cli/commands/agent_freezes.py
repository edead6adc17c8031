"""`paybill agent freeze | thaw | freezes`: stops agents at once, and lets them continue."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from paybill_cli import completion
from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import for_reading, tenant_id
from paybill_cli.commands.agents import agent_named
from paybill_cli.errors import usage
from paybill_cli.options import ConfirmedOptions, OptionGroup, Reason
from paybill_cli.output import Output

PATH = "/v1/freezes"
COLUMNS = ("freeze", "reason", "frozen_by", "frozen_at")
_WORKFLOW = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class Target(OptionGroup):
    """Target of a freeze: exactly one of these options."""

    everything: Annotated[bool, typer.Option("--everything", help="All agents of all tenants.")] = False
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", help="All agents of this tenant: slug or id.", autocompletion=completion.tenants),
    ] = None
    agent: Annotated[str | None, typer.Option("--agent", help="This agent: its id or name.")] = None
    workflow: Annotated[str | None, typer.Option("--workflow", help="This workflow, for all tenants.")] = None

    def id(self, stack: Stack) -> str:
        """Returns the id of the freeze. Raises a usage error unless exactly one option is set."""
        named = [each for each in (self.everything, self.tenant, self.agent, self.workflow) if each]
        if len(named) != 1:
            raise usage("name exactly one of --everything, --tenant, --agent and --workflow")
        if self.tenant is not None:
            return f"tenant/{tenant_id(stack, self.tenant)}"
        if self.agent is not None:
            return f"agent/{agent_named(stack, self.agent, has_ended=True)}"
        if self.workflow is not None:
            if not _WORKFLOW.fullmatch(self.workflow):
                raise usage(f"{self.workflow!r} is not the name of a workflow")
            return f"workflow/{self.workflow}"
        return "everything"


def freeze(out: Output, stack: Stack, options: ConfirmedOptions, target: Target, reason: Reason) -> None:
    """Freeze a tenant's agents, one agent, a workflow, or everything.

    No write of theirs begins from now on, and their next call is refused.

    Example: paybill agent freeze --workflow refund --reason "refunds are checked" --yes
    """
    body = {"freeze": target.id(stack), "reason": reason}
    with Service(stack, "agent-gateway") as gateway:
        if options.dry_run:
            preview(out, gateway, PATH, body, options.idempotency_key)
            return
        out.confirm(f"Freeze {for_reading(out, stack, body['freeze'])}?", yes=options.yes)
        done = post(out, gateway, PATH, body, options.idempotency_key)
    out.record("agent.frozen", for_reading(out, stack, done), COLUMNS)
    out.info("next: paybill agent freezes")


def thaw(out: Output, stack: Stack, options: ConfirmedOptions, target: Target) -> None:
    """End a freeze: runs whose time is not over continue.

    Example: paybill agent thaw --workflow refund --yes
    """
    body = {"freeze": target.id(stack)}
    with Service(stack, "agent-gateway") as gateway:
        if options.dry_run:
            preview(out, gateway, f"{PATH}/thaw", body, options.idempotency_key)
            return
        out.confirm(f"Thaw {for_reading(out, stack, body['freeze'])}?", yes=options.yes)
        done = post(out, gateway, f"{PATH}/thaw", body, options.idempotency_key)
    shown = for_reading(out, stack, done)
    out.record("agent.thawed", shown, ("freeze", "frozen"))
    out.info(f"{shown['freeze']} is thawed: runs whose time is not over continue")
    out.info("next: paybill agent freezes")


def freezes(out: Output, stack: Stack) -> None:
    """List what is frozen now, with the reason.

    No write of theirs begins from now on, and their next call is refused.

    Example: paybill agent freezes
    """
    with Service(stack, "agent-gateway") as gateway:
        found: list[Mapping[str, Any]] = gateway.get(PATH)["freezes"]
    out.rows("agent.freezes", for_reading(out, stack, found), COLUMNS)
