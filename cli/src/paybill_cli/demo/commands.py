"""`paybill demo`: the main job, shown and checked."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from paybill_stack.layout import Layout

from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

_PLANS = Path(__file__).with_name("plans.yaml")


async def demo(
    out: Output,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Keep all state there; an earlier demo's can be used again.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the temporary folder, to look around in afterwards.")
    ] = False,
) -> int:
    """Show the main job on real parts, from sign-up to replay.

    Customers sign up and pay at a stand-in for Stripe; signed webhooks arrive, environments are built, a payment
    fails, one customer leaves, and the log is replayed. Exit code 0 only if all of that was observed.

    Example: paybill demo --keep
    """
    from paybill_embedded.credentials import write_private
    from paybill_stack.foreground import in_foreground
    from paybill_stack.supervisor import Options, Supervisor

    from paybill_cli.demo.story import play
    from paybill_cli.demo.voice import Voice

    root = Path(tempfile.mkdtemp(prefix="paybill-demo-")) if data_dir is None else data_dir
    layout = Layout(root)
    fresh = not layout.ports.exists()
    if not fresh and not _is_ours(layout):
        raise usage(
            f"{root} holds a stack that no demo made",
            why="its plans are not the demo's, and what was published stays",
            next="choose an empty folder with --data-dir, or none",
        )
    voice = Voice(out)

    async def show(stack: Supervisor) -> bool:
        write_private(stack.layout.plans, _PLANS.read_text(encoding="utf-8"))
        await play(stack, voice, fresh=fresh)
        return True

    out.say(f"starting NATS, PostgreSQL, a stand-in for Stripe and three services on {root}")
    stays = keep or data_dir is not None
    try:
        shown = await in_foreground(Supervisor(Options(root, catalogue=_PLANS), out.say), show)
    except CliError:
        stays = True  # its logs tell why
        raise
    finally:
        if not stays:
            shutil.rmtree(root, ignore_errors=True)
    if stays:
        out.say(f"look around with: paybill up --data-dir {root}")
    return int(ExitCode.OK if shown else ExitCode.INTERRUPTED)


def _is_ours(layout: Layout) -> bool:
    return layout.plans.exists() and layout.plans.read_bytes() == _PLANS.read_bytes()
