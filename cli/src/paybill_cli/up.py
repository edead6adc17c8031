"""`paybill up`: the whole stack in the foreground."""

import asyncio
import os
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_stack.supervisor import Supervisor

_PARTS = "Real parts instead of embedded ones"
_NEXT = (
    "paybill tenant create acme --plan starter --region eu-central --email ops@acme.example",
    "paybill events tail",
    "paybill doctor",
)


async def up(
    out: Output,
    data_dir: Annotated[
        Path, typer.Option("--data-dir", envvar="PAYBILL_DATA_DIR", help="Where all state is; made if it is missing.")
    ] = Path(".paybill"),
    catalogue: Annotated[
        Path | None,
        typer.Option(
            "--catalogue",
            envvar="PAYBILL_CATALOGUE_FILE",
            exists=True,
            dir_okay=False,
            resolve_path=True,
            help="What is sold at first: this, else plans.yaml in the data directory, else billing's own.",
        ),
    ] = None,
    blueprints: Annotated[
        Path | None,
        typer.Option(
            "--blueprints",
            envvar="PAYBILL_BLUEPRINTS_FILE",
            exists=True,
            dir_okay=False,
            resolve_path=True,
            help="What environments are made of; else the provisioner's own.",
        ),
    ] = None,
    port_base: Annotated[
        int | None,
        typer.Option("--port-base", help="Listen on this port and the next five, instead of any that are free."),
    ] = None,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make a new operator's key and end the old one.")] = False,
    nats_url: Annotated[
        str | None,
        typer.Option("--nats-url", envvar="PAYBILL_NATS_URL", help="A NATS of yours.", rich_help_panel=_PARTS),
    ] = None,
    nats_credentials_dir: Annotated[
        Path | None,
        typer.Option(
            "--nats-credentials-dir",
            envvar="PAYBILL_NATS_CREDENTIALS_DIR",
            exists=True,
            file_okay=False,
            resolve_path=True,
            help="A file nats-<user> with the password of each user.",
            rich_help_panel=_PARTS,
        ),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database-url",
            envvar="PAYBILL_DATABASE_URL",
            help="A PostgreSQL of yours: postgresql://superuser@host:port/postgres",
            rich_help_panel=_PARTS,
        ),
    ] = None,
    database_password_file: Annotated[
        Path | None,
        typer.Option(
            "--database-password-file",
            envvar="PAYBILL_DATABASE_PASSWORD_FILE",
            exists=True,
            dir_okay=False,
            resolve_path=True,
            help="A file with that superuser's password.",
            rich_help_panel=_PARTS,
        ),
    ] = None,
) -> int:
    """Run the whole stack in the foreground, until Ctrl-C.

    What was made is kept in the data directory, and is there again at the next start.

    Example: paybill up --data-dir ./stack --catalogue plans.yaml
    """
    from paybill_stack.foreground import in_foreground
    from paybill_stack.servers import Given
    from paybill_stack.supervisor import Options, Supervisor

    given = Given(nats_url, nats_credentials_dir, database_url, database_password_file)
    options = Options(data_dir, given, catalogue, blueprints, port_base, new_key)
    ready = False

    with ExitStack() as starting:
        progress = starting.enter_context(out.progress(f"starting the stack on {data_dir}"))

        async def until_told(stack: Supervisor) -> None:
            nonlocal ready
            starting.close()
            ready = True
            stack.tell = out.say
            _show(out, stack)
            await asyncio.Event().wait()

        await in_foreground(Supervisor(options, progress.now), until_told)
    return int(ExitCode.OK if ready else ExitCode.INTERRUPTED)


def _show(out: Output, stack: "Supervisor") -> None:
    parts = stack.parts()
    if out.json:
        rows = [asdict(part) for part in parts]
        key = {"operator_key": stack.new_key} if stack.new_key else {}
        out.record(
            "stack", {"data_dir": str(stack.layout.root), "ready_s": round(stack.took_s, 1), "parts": rows, **key}
        )
        return
    out.rows("stack", [asdict(part) | {"log": _near(part.log)} for part in parts], ("name", "address", "pid", "log"))
    out.say(f"ready after {stack.took_s:.1f} s; Ctrl-C stops everything, and the state stays in {stack.layout.root}")
    if stack.new_key:
        out.say("the operator's key, shown this once (paybill up --new-key makes another):")
        out.line("key", {"operator_key": stack.new_key}, f"export PAYBILL_API_KEY={stack.new_key}")
    out.say("in another terminal:")
    here = "" if stack.layout.root == Path(".paybill").absolute() else f" --data-dir {_near(stack.layout.root)}"
    for command in _NEXT:
        out.say(f"  {command}{here}")


def _near(path: Path | None) -> str | None:
    """As it is named from here, if that is shorter."""
    return None if path is None else min(str(path), os.path.relpath(path), key=len)
