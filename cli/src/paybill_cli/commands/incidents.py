"""`paybill incident`: problems that the services found, their owners and their end."""

import re
from typing import Annotated, Any, Literal

import typer

from paybill_cli.client.filters import Names, explain_no_match
from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import SERVICES, Stack
from paybill_cli.client.tenants import for_reading, tenant_id
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions, Limit, OnlyTenant, Reason, RequestOptions
from paybill_cli.output import Output
from paybill_cli.texts import text

COLUMNS = ("id", "service", "kind", "subject", "since", "owner", "summary")
_INCIDENTS = "/v1/incidents"
MAX_LISTED = 1000
_ID = re.compile(r"inc_[0-9a-f]{32}")

Id = Annotated[str, typer.Argument(help="Id of the incident, as `paybill incident list` lists it.", metavar="INCIDENT")]


def list_all(
    out: Output,
    stack: Stack,
    status: Annotated[Literal["open", "closed"], typer.Option("--status", help="Incidents to list.")] = "open",
    kind: Annotated[str | None, typer.Option("--kind", help="Only incidents of this kind.")] = None,
    tenant: OnlyTenant = None,
    owner: Annotated[str | None, typer.Option("--owner", parser=text, help="Only incidents of this owner.")] = None,
    limit: Limit = 100,
) -> None:
    """List the problems that the services found, the oldest first.

    Example: paybill incident list --kind paid_without_tenant
    """
    query = {
        "status": status,
        "kind": kind,
        "owner": owner,
        "tenant": None if tenant is None else tenant_id(stack, tenant),
    }
    rows: list[dict[str, Any]] = []
    cut = False
    for name in SERVICES:
        with Service(stack, name) as service:
            found, more = service.list_rows(_INCIDENTS, "incidents", query, limit)
        rows += found
        cut = cut or more
    rows.sort(key=lambda row: str(row["since"]))
    out.rows("incident.list", for_reading(out, stack, rows[:limit]), COLUMNS)
    if cut or len(rows) > limit:
        out.more(limit)
    if not rows and kind is not None:
        explain_no_match(out, stack, "incidents", [(f"kinds of {status} incidents", SERVICES, _kinds(status))])


def _kinds(status: str) -> Names:
    """Returns the kinds of the incidents that a service has."""

    def kinds(service: Service) -> set[str]:
        found, _ = service.list_rows(_INCIDENTS, "incidents", {"status": status}, MAX_LISTED)
        return {incident["kind"] for incident in found}

    return kinds


def show(out: Output, stack: Stack, id: Id) -> None:
    """Show an incident: the evidence, the owner, and the command that helps.

    Example: paybill incident show inc_0123456789abcdef0123456789abcdef
    """
    found = _find(stack, id)
    _show(out, stack, "incident", found)
    if found["status"] == "open" and found["command"]:
        out.info(f"next: {for_reading(out, stack, found['command'])}")


def assign(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    id: Id,
    owner: Annotated[str, typer.Option("--owner", parser=text, help="Person or team that resolves it.")],
) -> None:
    """Make a person or a team the owner of an incident.

    Example: paybill incident assign inc_0123456789abcdef0123456789abcdef --owner billing-team
    """
    found = _find(stack, id)
    with Service(stack, found["service"]) as service:
        if options.dry_run:
            preview(out, service, f"{_INCIDENTS}/{id}/assign", {"owner": owner}, options.idempotency_key)
            return
        done = post(out, service, f"{_INCIDENTS}/{id}/assign", {"owner": owner}, options.idempotency_key)
    _show(out, stack, "incident.assigned", done)


def close(out: Output, stack: Stack, options: ConfirmedOptions, id: Id, reason: Reason) -> None:
    """Close an incident; it opens again when the service finds the problem again.

    Example: paybill incident close inc_0123456789abcdef0123456789abcdef --reason "refunded by hand"
    """
    found = _find(stack, id)
    with Service(stack, found["service"]) as service:
        if options.dry_run:
            preview(out, service, f"{_INCIDENTS}/{id}/close", {"reason": reason}, options.idempotency_key)
            return
        out.confirm(f"Close {found['kind']} of {found['subject']}?", yes=options.yes)
        done = post(out, service, f"{_INCIDENTS}/{id}/close", {"reason": reason}, options.idempotency_key)
    _show(out, stack, "incident.closed", done)


def _show(out: Output, stack: Stack, kind: str, incident: dict[str, Any]) -> None:
    out.record(kind, incident if out.json else for_reading(out, stack, for_people(incident)))


def for_people(incident: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of an incident with one field for each value of the evidence."""
    fields: dict[str, Any] = {}
    for name, value in incident.items():
        fields |= {f"evidence {each['name']}": each["value"] for each in value} if name == "evidence" else {name: value}
    return fields


def _find(stack: Stack, id_: str) -> dict[str, Any]:
    """Returns the incident of the service that found it."""
    if _ID.fullmatch(id_) is None:
        raise usage(f"{id_!r} is not the id of an incident", next="paybill incident list")
    for name in SERVICES:
        with Service(stack, name) as service:
            try:
                incident: dict[str, Any] = service.get(f"{_INCIDENTS}/{id_}")
            except CliError as error:
                if error.code != "incident_not_found":
                    raise
            else:
                return incident
    raise CliError(
        "incident_not_found",
        f"no service has an incident {id_}",
        next="paybill incident list",
        exit_code=ExitCode.NOT_FOUND,
    )
