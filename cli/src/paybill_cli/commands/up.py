"""`paybill up`: runs the whole stack in the foreground."""

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from paybill_runtime.http.strict_json import read_json

from paybill_cli.commands.plans import checked
from paybill_cli.errors import usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_stack.supervisor import Supervisor

    from paybill_cli.example.files import ExampleFiles
    from paybill_cli.example.preparation import Prepared

_PROVIDERS = "Billing providers"
_PANEL = "External servers instead of embedded ones"
_EXAMPLES = (
    "paybill tenant create acme --plan starter --region eu-central --email ops@acme.example",
    "paybill events tail",
    "paybill doctor",
)
_AGENT_EXAMPLES = ("paybill agent runs", "paybill approval list", "paybill events tail --since 10m")


async def up(
    out: Output,
    data_dir: Annotated[
        Path,
        typer.Option(
            "--data-dir", envvar="PAYBILL_DATA_DIR", help="Directory of all state; created if it does not exist."
        ),
    ] = Path(".paybill"),
    catalogue: Annotated[
        Path | None,
        typer.Option(
            "--catalogue",
            envvar="PAYBILL_CATALOGUE_FILE",
            exists=True,
            dir_okay=False,
            resolve_path=True,
            help="Catalogue to start with; by default plans.yaml in the data directory, else the default catalogue.",
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
            help="Blueprint that the first start publishes; by default that of the provisioner. Afterwards: `paybill "
            "blueprint publish`.",
        ),
    ] = None,
    example: Annotated[
        Literal["support-agent"] | None,
        typer.Option("--example", help="Prepare this example: a product with data, and an agent that works on it."),
    ] = None,
    port_base: Annotated[
        int | None,
        typer.Option("--port-base", help="Listen on this port and the next five; by default on free ports."),
    ] = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Create a new operator key and revoke the old one.")
    ] = False,
    stripe_key_file: Annotated[
        Path | None,
        typer.Option(
            "--stripe-key-file",
            exists=True,
            dir_okay=False,
            resolve_path=True,
            help="File with the secret key of a Stripe test account, to use instead of the Stripe fake. Its events are "
            "fetched every 5 seconds.",
            rich_help_panel=_PROVIDERS,
        ),
    ] = None,
    stripe_api_base: Annotated[
        str,
        typer.Option(
            "--stripe-api-base",
            envvar="PAYBILL_STRIPE_API_BASE",
            help="With --stripe-key-file: URL of another server with Stripe's API.",
            rich_help_panel=_PROVIDERS,
        ),
    ] = "",
    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider",
            metavar="NAME=FILE",
            help="Connect an installed third-party billing provider; FILE contains its settings as a JSON object.",
            rich_help_panel=_PROVIDERS,
        ),
    ] = None,
    nats_url: Annotated[
        str | None,
        typer.Option("--nats-url", envvar="PAYBILL_NATS_URL", help="URL of your NATS.", rich_help_panel=_PANEL),
    ] = None,
    nats_credentials_dir: Annotated[
        Path | None,
        typer.Option(
            "--nats-credentials-dir",
            envvar="PAYBILL_NATS_CREDENTIALS_DIR",
            exists=True,
            file_okay=False,
            resolve_path=True,
            help="Directory with one password file per NATS user, named nats-<user>.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database-url",
            envvar="PAYBILL_DATABASE_URL",
            help="URL of your PostgreSQL: postgresql://superuser@host:port/postgres",
            rich_help_panel=_PANEL,
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
            help="File with the password of that superuser.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
) -> int:
    """Run the whole stack in the foreground, until Ctrl-C.

    State is kept in the data directory; the next start continues with it.

    Example: paybill up --data-dir ./stack --catalogue plans.yaml
    """
    from paybill_stack.environment import StripeAccount
    from paybill_stack.foreground import run_in_foreground
    from paybill_stack.layout import Layout
    from paybill_stack.servers import ExternalServers
    from paybill_stack.supervisor import Options, Supervisor

    layout = Layout(data_dir.absolute())
    # The services publish the files at the first start only; later the blueprint in force may have other tiers.
    is_first = not layout.ports.exists()
    files = _example_files(example, catalogue, blueprints, stripe_key_file)
    if files is not None:
        catalogue, blueprints = files.plans, files.blueprints
    if catalogue is not None or (is_first and os.access(layout.plans, os.R_OK)):
        checked(out, catalogue or layout.plans, blueprints if is_first else None)
    external = ExternalServers(nats_url, nats_credentials_dir, database_url, database_password_file)
    if stripe_api_base and stripe_key_file is None:
        raise usage("--stripe-api-base needs --stripe-key-file", next="paybill up --stripe-key-file FILE")
    stripe = StripeAccount(stripe_key_file, stripe_api_base) if stripe_key_file else None
    options = Options(
        data_dir,
        external,
        catalogue,
        blueprints,
        port_base,
        new_key,
        stripe=stripe,
        providers=dict(_provider(each) for each in provider or ()),
    )
    ready = False

    with ExitStack() as starting:
        progress = starting.enter_context(out.progress(f"starting the stack on {data_dir}"))

        def report(line: str) -> None:
            progress.update(line)

        def show_key(key: str) -> None:
            nonlocal progress
            starting.close()  # while a spinner runs, what is printed to stdout appears on stderr
            out.info("the operator's key, shown only now; another is created by: paybill key rotate")
            out.early("key", {"operator_key": key}, f"export PAYBILL_API_KEY={key}")
            progress = starting.enter_context(out.progress("starting the servers"))

        async def wait_for_signal(stack: Supervisor) -> None:
            nonlocal ready
            prepared = await _prepared(stack, files, progress.update) if files is not None else None
            starting.close()
            ready = True
            stack.report = out.info
            _show(out, stack, prepared)
            await asyncio.Event().wait()

        await run_in_foreground(Supervisor(options, report, show_key), wait_for_signal)
    return int(ExitCode.OK if ready else ExitCode.INTERRUPTED)


def _example_files(name: str | None, *others: Path | None) -> "ExampleFiles | None":
    """Returns the files of an example. others: options that an example decides itself."""
    if name is None:
        return None
    if any(each is not None for each in others):
        raise usage(
            "--example brings its own catalogue and blueprint, and pays at the Stripe fake",
            next=f"paybill up --example {name}",
        )
    from paybill_cli.example.files import ExampleFiles

    return ExampleFiles.of(name)


async def _prepared(stack: "Supervisor", files: "ExampleFiles", report: Callable[[str], None]) -> "Prepared":
    from paybill_cli.example.preparation import prepare

    return await prepare(stack, files, report)


def _provider(text: str) -> tuple[str, Path]:
    """Returns name and file of a third-party provider."""
    name, _, path = text.partition("=")
    try:
        content = read_json(Path(path).read_bytes()) if name and path else None
    except (OSError, ValueError) as error:
        raise usage(f"the settings of provider {name} cannot be read from {path}", why=str(error)) from error
    if not isinstance(content, dict):
        raise usage(f"{text!r} is not NAME=FILE with a JSON object in FILE", next="paybill up --provider NAME=FILE")
    return name, Path(path).absolute()


def _show(out: Output, stack: "Supervisor", prepared: "Prepared | None") -> None:
    parts = [asdict(part) for part in stack.parts()]
    if out.json:
        key: dict[str, object] = {"operator_key": stack.new_key} if stack.new_key else {}
        key |= {"example": asdict(prepared)} if prepared is not None else {}
        ready_s = round(stack.startup_s, 1)
        out.record("stack", {"data_dir": str(stack.layout.root), "ready_s": ready_s, "parts": parts, **key})
        return
    out.rows("stack", [part | {"log": _shortest(part["log"])} for part in parts], ("name", "address", "pid", "log"))
    out.info(
        f"ready after {stack.startup_s:.1f} s; Ctrl-C stops everything, and the state stays in {stack.layout.root}"
    )
    examples = _EXAMPLES
    if prepared is not None:
        _show_example(out, prepared)
        examples = _AGENT_EXAMPLES
    out.info("in another terminal, with PAYBILL_API_KEY as printed when the operator's key was created:")
    option = "" if stack.layout.root == Path(".paybill").absolute() else f" --data-dir {_shortest(stack.layout.root)}"
    for command in examples:
        out.info(f"  {command}{option}")


def _show_example(out: Output, prepared: "Prepared") -> None:
    """Prints the variables of the example's programs."""
    out.record("example", {"tenant": prepared.tenant, "agent_id": prepared.agent_id})
    out.line("example", {}, f"export AGENT_ADDRESS={prepared.address}")
    if not prepared.key:
        out.info("the agent of the example was ended, or its key is not in the data directory; for another one:")
        out.info(f"  paybill agent new desk --tenant {prepared.tenant} --role support")
        return
    out.line("example", {}, f"export AGENT_KEY={prepared.key}")
    out.info("an MCP client connects to the address with the key as its bearer token; the tickets are t-17 to t-19")


def _shortest(path: Path | None) -> str | None:
    """Returns the absolute or the relative path, whichever is shorter."""
    return None if path is None else min(str(path), os.path.relpath(path), key=len)
