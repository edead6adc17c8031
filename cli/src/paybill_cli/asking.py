"""What all commands share that ask a service for a change: their options, and how it is asked once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import uuid4

import typer

from paybill_cli.calls import Service
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

Reason = Annotated[str, typer.Option("--reason", help="Kept in the log for ever: no personal data.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Unsent = Annotated[bool, typer.Option("--dry-run", help="Show what would be asked for, and ask for nothing.")]
"""The dry run of a request that a service has none for."""
Again = Annotated[
    str | None,
    typer.Option("--idempotency-key", help="The key of an earlier try whose outcome is unknown: it is done once."),
]


@contextmanager
def once(out: Output, given: str | None) -> Iterator[str]:
    """The key of a request; when it stays unknown whether it was done, the way to ask again without doing it twice."""
    key = given or str(uuid4())
    try:
        yield key
    except CliError as error:
        if error.exit_code is ExitCode.UNREACHABLE:
            out.say(f"send the same again with --idempotency-key {key}: it is done once")
        raise


def sent(out: Output, service: Service, path: str, body: Mapping[str, Any] | None, given: str | None) -> dict[str, Any]:
    """The answer to what is asked under the key that was given, or one of its own."""
    with once(out, given) as key:
        answer: dict[str, Any] = service.post(path, body, key=key)
    return answer


def show_unsent(out: Output, service: str, path: str, body: Mapping[str, Any]) -> None:
    """What would be asked for."""
    out.record("request", {"service": service, "method": "POST", "path": path, "body": body})
    out.say("nothing was sent")
