"""`python -m paybill_runtime.replay SERVICE... [--rebuild]`: replays several services in one process.

Standard input is a JSON object with the access of each service: `{"tenant": {"database_url": ..., ...}, ...}`. Each
report is a line of standard output. Only the tables and rules of the services are imported, not their applications.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from paybill_runtime.replay.command import exit_code, print_reports
from paybill_runtime.replay.process import Target


class Access(BaseModel):
    """The settings of a service that a replay uses."""

    database_url: str
    database_password_file: Path
    nats_url: str
    nats_user: str
    nats_password_file: Path
    identity_dir: Path
    signed_from_sequence: int = 0


def main() -> int:
    """Replays the services; returns the exit code."""
    parser = argparse.ArgumentParser(prog="paybill_runtime.replay", description="Replays several services.")
    parser.add_argument("services", nargs="+")
    parser.add_argument("--rebuild", action="store_true", help="write the tables again (stop the services first)")
    arguments = parser.parse_args()
    access = TypeAdapter(dict[str, Access]).validate_json(sys.stdin.read())
    targets = [_target(name, access[name]) for name in arguments.services]
    return exit_code(lambda: print_reports(targets, rebuild=arguments.rebuild))


def _target(name: str, access: Access) -> Target:
    package = name.replace("-", "_")
    import_module(f"paybill_contracts.{package}")  # registers its event types
    return Target(name, import_module(f"paybill_{package}.tables").STATES, access)


if __name__ == "__main__":
    sys.exit(main())
