"""Command line `python -m paybill_contracts check | update` for the published schemas."""

import argparse
import sys
from pathlib import Path

from paybill_contracts.published import Published
from paybill_contracts.schemas import NoSampleError, published_events

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0 when all published schemas are still valid."""
    parser = argparse.ArgumentParser(
        prog="python -m paybill_contracts", description="The published schemas of all events."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, description in (
        ("check", "compare the committed schemas and samples with the current classes"),
        ("update", "write missing files and compatible changes, then check"),
    ):
        command = commands.add_parser(name, help=description)
        command.add_argument("--root", type=Path, default=ROOT, help="the folder with `schemas` and `samples`")
    options = parser.parse_args(arguments)
    published = Published(options.root, published_events())
    try:
        for name in published.update() if options.command == "update" else ():
            print(f"wrote {name}")
    except NoSampleError as error:
        print(error, file=sys.stderr)
        return 1
    problems = published.check()
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
