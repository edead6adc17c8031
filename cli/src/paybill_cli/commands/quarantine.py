"""`paybill events quarantine`, `redrive` and `skip`: events that services could not handle or refused."""

from typing import Annotated, Any
from uuid import UUID

import typer

from paybill_cli.client.http import Service
from paybill_cli.client.stack import SERVICES, Stack
from paybill_cli.client.tenants import for_reading
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import DryRun, Reason, Yes
from paybill_cli.output import Output

COLUMNS = ("id", "service", "state", "subject", "tenant", "attempts", "next_at", "reason")
_OPERATIONS = "/v1/operations"

Id = Annotated[str, typer.Argument(help="Id of the event, as `paybill events quarantine` lists it.", metavar="ID")]


def quarantine(
    out: Output,
    stack: Stack,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=500, help="Maximum number of rows per kind and service.")
    ] = 100,
) -> None:
    """List events that could not be handled or were refused.

    States: `dead` is a dead letter and needs a redrive or a skip; `parked` is in the retry queue and is retried
    automatically; `queued` waits behind an earlier event of its tenant; `quarantined` was refused by the service that
    owns its type.

    Example: paybill events quarantine
    """
    rows: list[dict[str, Any]] = []
    for name in SERVICES:
        with Service(stack, name) as service:
            rows += _retry_queue(name, service.get(f"{_OPERATIONS}/dead-letters", {"limit": limit}))
            refused = service.get(f"{_OPERATIONS}/quarantine", {"limit": limit})
            rows += [row | {"id": row["quarantine_id"], "service": name, "state": "quarantined"} for row in refused]
    shown = rows if out.json else [_explained(row) for row in rows]
    out.rows("event.quarantine", for_reading(out, stack, shown), COLUMNS)
    dead = next((row["id"] for row in rows if row["state"] == "dead"), None)
    if dead is not None:
        out.info(f"next: paybill events redrive {dead}, or paybill events skip {dead} --reason WHY")


def redrive(out: Output, stack: Stack, id: Id, dry_run: DryRun = False) -> None:
    """Retry a failed event now.

    Example: paybill events redrive 0190a5b0-0000-7000-8000-000000000001
    """
    name, letter, before, behind = _find(stack, id)
    if dry_run:
        when = f"after {_events(before)} before it" if before else "now"
        _preview(
            out, letter, f"would retry it {when}, with all attempts again; meanwhile {_events(behind)} stay behind it"
        )
        return
    with Service(stack, name) as service:
        out.record("event.redriven", {"service": name, **service.post(f"{_OPERATIONS}/dead-letters/{id}/redrive")})


def skip(
    out: Output,
    stack: Stack,
    id: Id,
    reason: Reason,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Skip a failed event, so that the queue of its tenant continues.

    This cannot be undone: the service never handles this event.

    Example: paybill events skip 0190a5b0-0000-7000-8000-000000000001 --reason "meter was removed"
    """
    name, letter, _, behind = _find(stack, id)
    if dry_run:
        would = (
            f"would remove it, so that {name} never handles it; the queue continues with {_events(behind)} behind it"
        )
        _preview(out, letter, would)
        return
    out.confirm(f"Let {name} skip {letter['subject']}? This cannot be undone.", yes=yes)
    with Service(stack, name) as service:
        done = service.post(f"{_OPERATIONS}/dead-letters/{id}/skip", {"reason": reason})
    out.record("event.skipped", {"service": name, **done})


def _preview(out: Output, letter: dict[str, Any], would: str) -> None:
    """Prints what would happen to an event. All events behind it are of its tenant."""
    out.record("event.found", letter | {"would": would.removeprefix("would ")})
    out.info(f"{would}; nothing was changed")


def _events(number: int) -> str:
    return f"{number} event{'' if number == 1 else 's'} of its tenant"


def _retry_queue(service: str, letters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of a service; only the first event of a tenant is retried, the others wait behind it."""
    rows = []
    tenants: set[str] = set()
    for letter in letters:
        state = "dead" if letter["dead"] else ("queued" if letter["tenant"] in tenants else "parked")
        tenants.add(letter["tenant"])
        rows.append(letter | {"id": letter["event_id"], "service": service, "state": state})
    return rows


def _explained(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"state": "parked (retried automatically)"} if row["state"] == "parked" else row


def _find(stack: Stack, id_: str) -> tuple[str, dict[str, Any], int, int]:
    """Returns the service whose retry queue contains this event, the event, and how many are before and behind it."""
    try:
        UUID(id_)
    except ValueError as error:
        raise usage(f"{id_!r} is not an id", next="paybill events quarantine") from error
    for name in SERVICES:
        with Service(stack, name) as service:
            letters = service.get(f"{_OPERATIONS}/dead-letters", {"limit": 500})
        for letter in letters:
            if letter["event_id"] == id_:
                queue = [other["event_id"] for other in letters if other["tenant"] == letter["tenant"]]
                before = queue.index(id_)
                return name, letter | {"service": name}, before, len(queue) - before - 1
    raise CliError(
        "dead_letter_not_found",
        f"no retry queue contains an event {id_}",
        why="a quarantined event was refused finally; its publisher can send a corrected one",
        next="paybill events quarantine",
        exit_code=ExitCode.NOT_FOUND,
    )
