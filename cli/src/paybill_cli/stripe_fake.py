"""`paybill stripe-fake`: the stand-in for Stripe by itself."""

import os
import sys
from typing import Annotated

import typer


def stripe_fake(arguments: Annotated[list[str] | None, typer.Argument(help="See `serve --help`.")] = None) -> None:
    """Run the stand-in for Stripe by itself.

    Example: paybill stripe-fake serve --api-key-file key --port 8420
    """
    command = [sys.executable, "-P", "-m", "paybill_stripe_fake", *(arguments or [])]
    os.execv(command[0], command)  # noqa: S606  # a fixed program, and signals reach it directly
