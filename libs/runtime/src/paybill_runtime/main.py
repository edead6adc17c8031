"""The command line of a service: `python -m paybill_<service> [serve | migrate | replay]`."""

import argparse
import asyncio
import json
import sys

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from pydantic import ValidationError

from paybill_runtime.app import Service, serve
from paybill_runtime.database.migrate import migrate
from paybill_runtime.database.pool import Database
from paybill_runtime.errors import ConfigurationError, DatabaseUnavailableError, reason
from paybill_runtime.replay.verify import LogUnavailableError, replay
from paybill_runtime.settings import read_secret


def run(service: Service) -> None:
    """Runs the command and exits: 0 done, 1 failed, 2 wrong use, 9 verification failed, 10 unreachable."""
    parser = argparse.ArgumentParser(prog=f"paybill_{service.name}", description=f"The {service.name} service.")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="run the service (the default)")
    commands.add_parser("migrate", help="migrate its database to the newest revision")
    replay = commands.add_parser("replay", help="fold the log and compare it with the live tables")
    replay.add_argument(
        "--rebuild", action="store_true", help="write the tables again from the log (stop the service first)"
    )
    arguments = parser.parse_args()
    try:
        code = asyncio.run(_run(service, arguments))
    except (ConfigurationError, ValidationError) as error:
        sys.stderr.write(f"configuration: {_short(error)}\n")
        code = 2
    except DatabaseUnavailableError:
        sys.stderr.write("the database does not answer; check PAYBILL_DATABASE_URL and that PostgreSQL runs\n")
        code = 10
    except (LogUnavailableError, NatsError, JetStreamError, OSError, TimeoutError) as error:
        sys.stderr.write(f"NATS does not answer ({reason(error)}); check PAYBILL_NATS_URL and that NATS runs\n")
        code = 10
    sys.exit(code)


def _short(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"PAYBILL_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
    return str(error)


async def _run(service: Service, arguments: argparse.Namespace) -> int:
    if arguments.command in (None, "serve"):
        return await serve(service)
    settings = service.settings()
    database = Database(
        settings.database_url, read_secret(settings.database_password_file), f"{service.name}-{arguments.command}"
    )
    try:
        if arguments.command == "migrate":
            await migrate(database, service.name)
            return 0
        report = await replay(service, settings, database, rebuild=arguments.rebuild)
        sys.stdout.write(json.dumps(report.as_dict()) + "\n")
        return 0 if report.equal else 9
    finally:
        await database.close()
