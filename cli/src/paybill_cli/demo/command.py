"""`paybill demo`: starts a stack, and runs the scenario on it."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_stack.layout import Layout
    from paybill_stack.supervisor import Supervisor

_PLANS = Path(__file__).with_name("plans.yaml")
_BLUEPRINTS = Path(__file__).with_name("blueprints.yaml")


async def demo(
    out: Output,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Directory to keep all state; that of an earlier demo can be reused."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary directory.")] = False,
) -> int:
    """Run a customer journey on real servers, sign-up to replay.

    Customers sign up and pay at the Stripe fake; signed webhooks arrive, environments are built, a payment fails, a
    customer cancels, and the log is replayed. Exit code 0 only if every step was observed.

    Example: paybill demo --keep
    """
    from paybill_embedded.credentials import write_private
    from paybill_stack.errors import StackError
    from paybill_stack.foreground import run_in_foreground
    from paybill_stack.layout import Layout
    from paybill_stack.supervisor import Options, Supervisor

    from paybill_cli.demo.printer import Printer
    from paybill_cli.demo.scenario import run_scenario

    root = Path(tempfile.mkdtemp(prefix="paybill-demo-")) if data_dir is None else data_dir
    layout = Layout(root)
    fresh = not layout.ports.exists()
    if not fresh and not _made_by_demo(layout):
        raise usage(
            f"{root} contains a stack that no demo created",
            why="it has other plans, and published plans cannot be removed",
            next="choose an empty directory with --data-dir, or none",
        )
    printer = Printer(out)

    async def run(stack: "Supervisor") -> bool:
        write_private(stack.layout.plans, _PLANS.read_text(encoding="utf-8"))
        await run_scenario(stack, printer, fresh=fresh)
        return True

    out.info(f"starting NATS, PostgreSQL, the Stripe fake and four services on {root}")
    kept = keep or data_dir is not None
    try:
        done = await run_in_foreground(
            Supervisor(Options(root, catalogue=_PLANS, blueprints=_BLUEPRINTS, offboarding_delay_s=1), out.info), run
        )
    except (CliError, StackError):
        kept = True  # its logs contain the reason
        raise
    finally:
        if not kept:
            shutil.rmtree(root, ignore_errors=True)
    if kept:
        out.info(f"start the stack again with: paybill up --data-dir {root}")
    return int(ExitCode.OK if done else ExitCode.INTERRUPTED)


def _made_by_demo(layout: "Layout") -> bool:
    return layout.plans.exists() and layout.plans.read_bytes() == _PLANS.read_bytes()
