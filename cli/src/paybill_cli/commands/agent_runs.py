"""`paybill agent runs | show | explain`: what agents did, and which rule decided."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import typer
from paybill_runtime.http.strict_json import JsonError, read_json

from paybill_cli import completion, formatting
from paybill_cli.call_view import Line, fields_text, quoted
from paybill_cli.client.http import Service
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import for_reading, tenant_id, with_tenant, with_tenants
from paybill_cli.commands.agent_publications import SHORT_HASH
from paybill_cli.commands.agents import agent_named
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import Limit, OnlyTenant
from paybill_cli.output import Output

PATH = "/v1/runs"
COLUMNS = ("id", "tenant", "workflow", "status", "ended", "started_by", "actions", "started_at")
FIELDS = (
    *("id", "tenant", "workflow", "role", "status", "ended", "inputs", "started_by", "bundle_hash", "budget"),
    *("started_at", "expires_at", "ended_at"),
)
_ID = re.compile(r"run_[0-9a-f]{32}")

Status = Literal["open", "waiting", "approval", "pending", "ended"]


def runs(
    out: Output,
    stack: Stack,
    tenant: OnlyTenant = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Only runs of this agent: its id or name.")] = None,
    workflow: Annotated[str | None, typer.Option("--workflow", help="Only runs of this workflow.")] = None,
    status: Annotated[Status | None, typer.Option("--status", help="Only runs with this status.")] = None,
    limit: Limit = 100,
) -> None:
    """List runs of agents' workflows, the newest first.

    Example: paybill agent runs --tenant acme
    """
    query = {
        "tenant": tenant and tenant_id(stack, tenant),
        "agent": agent and agent_named(stack, agent, tenant, has_ended=True),
        "workflow": workflow,
        "status": status,
    }
    with Service(stack, "agent-gateway") as gateway:
        found, more = gateway.list_rows(PATH, "runs", query, limit)
    out.rows("agent.runs", with_tenants(out, stack, found), COLUMNS)
    if more:
        out.more(limit)


def show(
    out: Output,
    stack: Stack,
    run: Annotated[str, typer.Argument(help="Id of the run, run_….", metavar="RUN")],
) -> None:
    """Show a run: its inputs, and each action, refusal and approval in order.

    Example: paybill agent show run_0123456789abcdef0123456789abcdef
    """
    with Service(stack, "agent-gateway") as gateway:
        found = gateway.get(f"{PATH}/{_run_id(run)}")
    if out.json:
        out.record("agent.run", found)
        return
    shown = with_tenant(out, stack, found)
    out.record("agent.run", shown | {"inputs": fields_text(shown["inputs"]), "budget": _budget(shown)}, FIELDS)
    out.styled("agent.actions", found, [*action_lines(found), *approval_lines(found)])
    waiting = [each for each in found["approvals"] if each["status"] == "requested" and not each["expired"]]
    if waiting:
        out.info(f"next: paybill approval show {waiting[-1]['id']}")


def explain(
    out: Output,
    stack: Stack,
    run: Annotated[str | None, typer.Option("--run", help="Run of a call that happened.")] = None,
    seq: Annotated[int | None, typer.Option("--seq", min=1, help="Its number in the run.")] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant", help="Tenant of a call that is made up: slug or id.", autocompletion=completion.tenants
        ),
    ] = None,
    role: Annotated[str | None, typer.Option("--role", help="Role of a call that is made up.")] = None,
    step: Annotated[str | None, typer.Option("--step", help="Its workflow and step, such as refund.propose.")] = None,
    values: Annotated[
        str | None, typer.Option("--values", help='JSON object with the row as it will be, such as {"amount": 1200}.')
    ] = None,
) -> None:
    """Name the grant and the rule that decided; exit code 6 for a denied call.

    A number that was called several times is listed with every decision; the last one counts.

    The call happened (--run and --seq), or is made up (--tenant, --role, --step and --values).

    Example: paybill agent explain --run run_0123456789abcdef0123456789abcdef --seq 3
    """
    body = _call(run, seq) if run is not None else _made_up(stack, tenant, role, step, values)
    with Service(stack, "agent-gateway") as gateway:
        found = gateway.post("/v1/explanations", body)
    shown = for_reading(out, stack, _explanation(out, found))
    out.record("agent.explanation", shown, () if out.json else tuple(each for each in shown if each != "attempts"))
    if not out.json and len(found["attempts"]) > 1:
        out.styled("agent.attempts", found, list(attempt_lines(found["attempts"])))
    if not found["allowed"]:
        raise CliError(found["code"], "the call is not allowed", exit_code=ExitCode.CONFLICT)


def _call(run: str, seq: int | None) -> dict[str, Any]:
    if seq is None:
        raise usage("--run needs --seq: the number of the call", next=f"paybill agent show {run}")
    return {"run": _run_id(run), "seq": seq}


def _made_up(
    stack: Stack, tenant: str | None, role: str | None, step: str | None, values: str | None
) -> dict[str, Any]:
    if tenant is None or role is None or step is None:
        raise usage("name a call with --run and --seq, or one that is made up with --tenant, --role and --step")
    workflow, _, name = step.partition(".")
    try:
        row = read_json((values or "{}").encode())
    except JsonError as error:
        raise usage(f"--values is refused: {error}") from None
    if not isinstance(row, dict) or not name:
        raise usage("--step is WORKFLOW.STEP, and --values a JSON object")
    return {"tenant": tenant_id(stack, tenant), "role": role, "workflow": workflow, "step": name, "values": row}


def _explanation(out: Output, found: Mapping[str, Any]) -> dict[str, Any]:
    if out.json:
        return dict(found)
    nearest = [f"{each['id']} ({each['condition'] or 'every row'})" for each in found["nearest"]]
    grants, others = ", ".join(found["grants"]) or "none", ", ".join(nearest) or "none"
    return {**found, "grants": grants, "nearest": others}


def attempt_lines(attempts: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    """Yields a line for each decision about a number of a run."""
    for number, each in enumerate(attempts, 1):
        decision = "allowed" if each["allowed"] else f"{each['code']}: {each['rule']}"
        grants = f"  by {', '.join(each['grants'])}" if each["grants"] else ""
        style = "green" if each["allowed"] else "red"
        yield style, f"  attempt {number}  {each['step']}  {decision}{grants}  {formatting.time(each['at'])}"


def _run_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise usage(f"{text!r} is not an id of a run", next="paybill agent runs")
    return text


def _budget(run: Mapping[str, Any]) -> str:
    """Returns what a run has used of its budgets."""
    used, limit = run["used"], run["limit"]
    parts = [f"{used[name]} of {limit[name]} {name}" for name in ("calls", "rows")]
    parts += [f"{used['sums'].get(name, 0)} of {most} {name}" for name, most in limit["sums"].items()]
    return ", ".join(parts)


def approval_lines(run: Mapping[str, Any]) -> Iterator[Line]:
    """Yields the lines of each approval: its status and reason, who decided and when."""
    styles = {"granted": "green", "used": "green", "rejected": "red"}
    for each in run["approvals"]:
        status = "expired" if each["expired"] else each["status"]
        text = f"  {each['seq']:>3}  {each['step']}  approval {each['id']}  {status}"
        yield styles.get(status, ""), f"{text}  {formatting.time(each['requested_at'])}"
        decision = f"by {each['decided_by']}" if each["decided_by"] else "by nobody"
        if each["approval"] is not None:
            decision += f" at {formatting.time(each['approval']['approved_at'])}"
        ended = f": {quoted(each['ended'])}" if each["ended"] else ""
        yield "", f"       requested by {each['requester']} ({each['reason']}); decided {decision}{ended}"


def action_lines(run: Mapping[str, Any]) -> Iterator[Line]:
    """Yields a line for each action; it names the bundle of the grants when it is not that of the run."""
    styles = {"done": "green", "refused": "red", "failed": "red"}
    for each in run["actions"]:
        about = f"{each['verb']} of {each['resource']}" if each["verb"] else each["chosen"] or ""
        code = f"  {each['code']}: {each['rule']}" if each["rule"] else f"  {each['code']}" if each["code"] else ""
        grants = f"  by {', '.join(each['grants'])}" if each["grants"] else ""
        if each["grants_hash"] not in {None, run["bundle_hash"]}:
            grants += f"  under bundle {each['grants_hash'][:SHORT_HASH]}"
        text = f"  {each['seq']:>3}  {each['step']}  {each['status']}  {about}{code}{grants}"
        yield styles.get(each["status"], ""), f"{text}  {formatting.time(each['at'])}"
        if each["arguments"]:
            yield "", f"       {fields_text(each['arguments'])}"
