"""`paybill events publish`: offer an event to the owner of its type, as an internal service would."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from paybill_contracts.envelope import MalformedFactError
from paybill_contracts.errors import DomainError
from paybill_contracts.event import Event, explain
from paybill_contracts.schemas import contexts, name_of, published_events
from paybill_runtime.messaging.publisher import BusUnreachableError, PublishDeniedError, Publisher, PublishError
from pydantic import ValidationError

from paybill_cli.context import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

MAX_BYTES = 60 * 1024
"""The intake takes 64 KiB, headers included."""


async def publish(
    out: Output,
    stack: Stack,
    event_type: Annotated[str, typer.Option("--type", help="Such as usage.recorded.")],
    data: Annotated[str, typer.Option("--data", help="The payload: JSON, @FILE, or - for standard input.")],
    publisher: Annotated[str, typer.Option("--publisher", help="Whose name and password to use.")] = "metering",
    id: Annotated[
        str | None, typer.Option("--id", help="A UUID of the observation: the same one again counts once.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check it, and send nothing.")] = False,
) -> None:
    """Offer an event to the owner of its type.

    It is checked before it is sent. The owner records it as a fact, or quarantines it with the reason.

    Example: paybill events publish --type usage.recorded --data @usage.json
    """
    event = _event(event_type, _read(data))
    if dry_run:
        out.record("event.valid", {"type": name_of(type(event)), "payload": event.model_dump(mode="json")})
        out.say("nothing was sent")
        return
    access = stack.nats(publisher)
    try:
        async with Publisher(access.url, access.user, access.password) as connection:
            receipt = await connection.publish(event, id=id)
    except MalformedFactError as error:
        raise usage(str(error), code=error.code, next="give --id a UUID, and --publisher a plain name") from error
    except DomainError as error:
        raise usage(str(error), code=error.code) from error
    except PublishError as error:
        raise CliError(error.code, error.message, next=error.next_step, exit_code=_exit_code(error)) from error
    out.record("event.published", {"id": receipt.id, "sequence": receipt.sequence, "duplicate": receipt.duplicate})


def _exit_code(error: PublishError) -> ExitCode:
    match error:
        case BusUnreachableError():
            return ExitCode.UNREACHABLE
        case PublishDeniedError():
            return ExitCode.DENIED
        case _:
            return ExitCode.FAILED


def _event(type_: str, payload: bytes) -> Event:
    """The event, of a type that may be offered, with a payload that its owner can read."""
    events = published_events()
    ours = contexts(events)
    offered = {event.TYPE: event for event in events if event.OWNER not in ours}
    if type_ not in offered:
        known = type_ in {event.TYPE for event in events}
        raise CliError(
            "not_offered" if known else "unknown_event",
            f"{type_} cannot be published",
            why="only its own service records it" if known else "there is no such type",
            next=f"what can be: {', '.join(sorted(offered))}",
            exit_code=ExitCode.USAGE if known else ExitCode.NOT_FOUND,
        )
    try:
        return offered[type_].model_validate_json(payload)
    except ValidationError as error:
        raise usage(
            f"the payload is no {type_}",
            code="invalid_event",
            why=explain(error),
            next=f"paybill events schema {type_}",
        ) from error


def _read(data: str) -> bytes:
    """The payload, wherever it is; never more than the intake would take."""
    try:
        if data == "-":
            payload = sys.stdin.buffer.read(MAX_BYTES + 1)
        elif data.startswith("@"):
            with Path(data[1:]).open("rb") as file:
                payload = file.read(MAX_BYTES + 1)
        else:
            payload = data.encode()
    except OSError as error:
        raise usage(f"{data[1:]} cannot be read", code="file_unreadable", why=error.strerror or "") from error
    if len(payload) > MAX_BYTES:
        raise usage(f"the payload has more than {MAX_BYTES} bytes", code="too_large", next="send less at a time")
    return payload
