"""Commands of a service: a replay that prints its reports, and the exit codes of failures."""

import json
import sys
from collections.abc import Callable, Sequence

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from paybill_contracts.validation_messages import plain_message
from pydantic import ValidationError

from paybill_runtime.errors import ConfigurationError, DatabaseUnavailableError, reason
from paybill_runtime.replay.process import Target, replay_all
from paybill_runtime.replay.verify import LogUnavailableError

DONE, MISCONFIGURED, DIFFERENT, UNREACHABLE = 0, 2, 9, 10


def print_reports(targets: Sequence[Target], *, rebuild: bool) -> int:
    """Prints the report of each service as a line of JSON; returns the exit code."""
    code = DONE
    for report in replay_all(targets, rebuild=rebuild):
        sys.stdout.write(json.dumps(report.as_dict()) + "\n")
        sys.stdout.flush()
        code = code if report.equal else DIFFERENT
    return code


def exit_code(command: Callable[[], int]) -> int:
    """Runs a command; returns its exit code, or that of its failure, which is printed."""
    try:
        return command()
    except (ConfigurationError, ValidationError) as error:
        sys.stderr.write(f"configuration: {_short(error)}\n")
        return MISCONFIGURED
    except DatabaseUnavailableError:
        sys.stderr.write("the database does not answer; check PAYBILL_DATABASE_URL and that PostgreSQL runs\n")
        return UNREACHABLE
    except (LogUnavailableError, NatsError, JetStreamError, OSError, TimeoutError) as error:
        sys.stderr.write(f"NATS does not answer ({reason(error)}); check PAYBILL_NATS_URL and that NATS runs\n")
        return UNREACHABLE


def _short(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"PAYBILL_{'_'.join(map(str, e['loc'])).upper()}: {plain_message(e)}" for e in error.errors())
    return str(error)
