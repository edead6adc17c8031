"""`python -m paybill_contracts check | update | asyncapi`: the published schemas, and one page about all events."""

import argparse
import json
import sys
from pathlib import Path

from paybill_contracts.asyncapi import document
from paybill_contracts.published import Published
from paybill_contracts.schemas import NoSampleError, published_events

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    """Do what the command line says; 0 when all promises are kept."""
    parser = argparse.ArgumentParser(
        prog="python -m paybill_contracts", description="The published schemas of all events."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, words in (
        ("check", "hold the committed schemas and samples against today's classes"),
        ("update", "write what is missing, and what may change; then check"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("--root", type=Path, default=ROOT, help="where `schemas` and `samples` are")
    commands.add_parser("asyncapi", help="print an AsyncAPI 3 document of all events")
    options = parser.parse_args(arguments)
    events = published_events()
    if options.command == "asyncapi":
        print(json.dumps(document(events), indent=2, sort_keys=True))
        return 0
    published = Published(options.root, events)
    try:
        for name in published.update() if options.command == "update" else ():
            print(f"wrote {name}")
    except NoSampleError as error:
        print(error, file=sys.stderr)
        return 1
    faults = published.check()
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
