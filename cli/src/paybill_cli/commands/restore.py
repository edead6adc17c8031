"""`paybill restore stream`: rebuilds the log from the outboxes of all services."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paybill_cli.client.stack import SERVICES, LocalStack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import DryRun, Yes
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_runtime.replay.stream_rebuild import Source, Survey
    from paybill_stack.environment import Addresses

FIELDS = ("first", "last", "present", "missing", "gap_count", "disagreements")


async def stream(
    out: Output,
    stack: LocalStack,
    *,
    from_outboxes: Annotated[
        bool, typer.Option("--from-outboxes", help="Take every event from the outbox of its service.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Rebuild the log from the outboxes of all services.

    The stack must be stopped. Every event keeps its sequence; a sequence that no outbox has gets a marker, and is
    listed. A stream that does not agree is kept beside the new one, in the folder nats/set-aside.

    Example: paybill restore stream --from-outboxes --dry-run
    """
    from paybill_stack.layout import Layout
    from paybill_stack.servers import embedded_servers, is_running

    if not from_outboxes:
        raise usage("name the source of the events", next="paybill restore stream --from-outboxes --dry-run")
    layout = Layout(stack.data_dir.absolute())
    if is_running(layout):
        raise CliError(
            "stack_runs",
            f"the stack on {layout.root} runs",
            why="nobody else may write to the log while it is rebuilt",
            next="stop `paybill up`, then: paybill restore stream --from-outboxes",
            exit_code=ExitCode.CONFLICT,
        )
    if not (layout.root / "postgres").exists():
        raise CliError(
            "stack_not_running",
            f"{layout.root} contains no embedded servers",
            why="the command starts the servers of a stopped stack",
            next="name its folder with --data-dir",
            exit_code=ExitCode.UNREACHABLE,
        )
    with embedded_servers(layout, out.info) as addresses:
        found = await _survey(addresses)
        out.record("restore.survey", _record(found), FIELDS)
        if dry_run or found.is_complete or not found.last:
            out.info("nothing was changed" if dry_run else "the log has everything that the services know")
            return
        out.confirm("Rebuild the log from the outboxes?", yes=yes)
        if not found.disagreements:
            await _rebuild(out, addresses, found)
            return
    out.info(f"the old stream is kept in {_set_aside(layout.root)}")
    with embedded_servers(layout, out.info) as addresses:
        await _rebuild(out, addresses, await _survey(addresses))


def _record(found: "Survey") -> dict[str, object]:
    return {**asdict(found), "missing": found.missing}


def _set_aside(root: Path) -> Path:
    """Moves the folder of the stream away, while NATS is stopped; returns the new path."""
    folder = root / "nats" / "set-aside"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"EVENTS-{len(list(folder.iterdir())) + 1}"
    (root / "nats" / "jetstream" / "PAYBILL" / "streams" / "EVENTS").rename(target)
    return target


async def _survey(addresses: "Addresses") -> "Survey":
    from paybill_runtime.errors import ConfigurationError
    from paybill_runtime.messaging.streams import connect
    from paybill_runtime.replay.stream_rebuild import survey

    async with _sources(addresses) as sources:
        reader = await connect(addresses.bus.url, "operator", addresses.bus.password("operator"))
        try:
            return await survey(sources, reader)
        except ConfigurationError as error:
            next_step = "follow B in docs/restoring.md"
            raise CliError("restore_refused", str(error), next=next_step, exit_code=ExitCode.CONFLICT) from error
        finally:
            await reader.close()


async def _rebuild(out: Output, addresses: "Addresses", found: "Survey") -> None:
    from paybill_runtime.errors import ConfigurationError
    from paybill_runtime.messaging.streams import connect, ensure
    from paybill_runtime.replay.stream_rebuild import rebuild

    async with _sources(addresses) as sources:
        steward = await connect(addresses.bus.url, "steward", addresses.bus.password("steward"))
        try:
            count = await rebuild(sources, steward, found)
            await ensure(steward)
        except ConfigurationError as error:
            raise CliError("restore_refused", str(error), next="paybill doctor", exit_code=ExitCode.CONFLICT) from error
        finally:
            await steward.close()
    out.record("restore.done", {"published": count, "gap_count": found.gap_count, "gaps": found.gaps})
    out.info("next: paybill replay --verify")


@asynccontextmanager
async def _sources(addresses: "Addresses") -> "AsyncIterator[list[Source]]":
    """Opens the outbox of each service, and a connection with its login."""
    from paybill_runtime.database.pool import Database
    from paybill_runtime.messaging.streams import connect
    from paybill_runtime.replay.stream_rebuild import Source

    bus, databases = addresses.bus, addresses.databases
    async with AsyncExitStack() as opened:
        sources = []
        for name in SERVICES:
            secret = databases.password_file(name).read_text(encoding="utf-8").strip()
            database = Database(databases.url(name), secret, f"{name}-restore")
            opened.push_async_callback(database.close)
            client = await connect(bus.url, name, bus.password(name))
            opened.push_async_callback(client.close)
            sources.append(Source(name, database, client))
        yield sources
