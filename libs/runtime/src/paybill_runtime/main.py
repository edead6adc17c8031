"""The command line of a service: `python -m paybill_<service> [serve | migrate | replay]`."""

import argparse
import asyncio
import os
import sys

from paybill_contracts.settings import unknown_settings

from paybill_runtime.app import Service
from paybill_runtime.database.pool import Database
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.replay.command import exit_code, print_reports
from paybill_runtime.replay.formats import migrate_states
from paybill_runtime.replay.process import Target
from paybill_runtime.serving import serve
from paybill_runtime.settings import read_secret


def run(service: Service) -> None:
    """Runs the command and exits: 0 done, 1 failed, 2 wrong use, 9 verification failed, 10 unreachable."""
    parser = argparse.ArgumentParser(
        prog=f"paybill_{service.name.replace('-', '_')}", description=f"The {service.name} service."
    )
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="run the service (the default)")
    commands.add_parser("migrate", help="migrate its database to the newest revision")
    replay = commands.add_parser("replay", help="fold the log and compare it with the live tables")
    replay.add_argument(
        "--rebuild", action="store_true", help="write the tables again from the log (stop the service first)"
    )
    arguments = parser.parse_args()
    sys.exit(exit_code(lambda: _run(service, arguments)))


def _run(service: Service, arguments: argparse.Namespace) -> int:
    if unknown := unknown_settings(os.environ):
        raise ConfigurationError(unknown)
    if arguments.command == "replay":
        target = Target(service.name, service.states, service.settings())
        return print_reports([target], rebuild=arguments.rebuild)
    return asyncio.run(_migrate(service) if arguments.command == "migrate" else serve(service))


async def _migrate(service: Service) -> int:
    settings = service.settings()
    password = read_secret(settings.database_password_file)
    database = Database(settings.database_url, password, f"{service.name}-migrate")
    try:
        for kind in await migrate_states(database, service):
            sys.stderr.write(f"the table of {kind} was written again from the facts\n")
        return 0
    finally:
        await database.close()
