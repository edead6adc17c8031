"""`paybill version`: prints the versions of paybill and Python."""

import platform
from importlib.metadata import version as installed

from paybill_cli.output import Output


def version(out: Output) -> None:
    """Print the version.

    Example: paybill version
    """
    out.record("version", {"paybill": installed("paybill-cli"), "python": platform.python_version()})
