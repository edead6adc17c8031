"""`paybill stripe-fake`: runs the Stripe fake alone."""

import os
import signal
import sys
from typing import Annotated

import typer


def stripe_fake(arguments: Annotated[list[str] | None, typer.Argument(help="See `serve --help`.")] = None) -> None:
    """Run the Stripe fake alone.

    Example: paybill stripe-fake serve --api-key-file key --port 8420
    """
    command = [sys.executable, "-P", "-m", "paybill_stripe_fake", *(arguments or [])]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until its event loop runs, which answers Ctrl-C
    os.execv(command[0], command)  # noqa: S606  # a fixed program; signals reach it directly
