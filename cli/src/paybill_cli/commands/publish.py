"""`paybill events publish`: publishes an event to the owner of its type, like an internal service."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paybill_cli.client.stack import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_contracts.event import Event

MAX_BYTES = 60 * 1024
"""The intake accepts 64 KiB, headers included."""


async def publish(
    out: Output,
    stack: Stack,
    event_type: Annotated[str, typer.Option("--type", help="Type, such as usage.recorded.")],
    data: Annotated[str, typer.Option("--data", help="Payload: JSON, @FILE, or - for standard input.")],
    publisher: Annotated[str, typer.Option("--publisher", help="Name of the publisher.")] = "metering",
    id: Annotated[
        str | None, typer.Option("--id", help="UUID of the event: a second event with this id is a duplicate.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate it, and send nothing.")] = False,
) -> None:
    """Publish an event to the intake of its type's owner.

    It is validated before it is sent. The owner records it in the log, or quarantines it with the reason.

    Example: paybill events publish --type usage.recorded --data @usage.json
    """
    from paybill_client import Credentials, NatsUnreachableError, PublishDeniedError, Publisher, PublishError
    from paybill_contracts.envelope import MalformedFactError
    from paybill_contracts.errors import DomainError
    from paybill_contracts.schemas import name_of

    event = _event(event_type, _read(data))
    if dry_run:
        out.record("event.valid", {"type": name_of(type(event)), "payload": event.model_dump(mode="json")})
        out.info("nothing was sent")
        return
    access = stack.nats(publisher)
    codes = {NatsUnreachableError: ExitCode.UNREACHABLE, PublishDeniedError: ExitCode.DENIED}
    try:
        async with Publisher(Credentials.of(access.user, access.url, access.password)) as connection:
            receipt = await connection.publish(event, id=id)
    except MalformedFactError as error:
        raise usage(str(error), code=error.code, next="--id must be a UUID, and --publisher a plain name") from error
    except DomainError as error:
        raise usage(str(error), code=error.code) from error
    except PublishError as error:
        exit_code = codes.get(type(error), ExitCode.FAILED)
        raise CliError(error.code, error.message, next=error.next_step, exit_code=exit_code) from error
    out.record("event.published", {"id": receipt.id, "sequence": receipt.sequence, "duplicate": receipt.duplicate})


def _event(type_: str, payload: bytes) -> "Event":
    """Returns the event, if its type can be published and its payload is valid."""
    from paybill_contracts.event import explain
    from paybill_contracts.schemas import contexts, published_events
    from paybill_runtime.http.strict_json import JsonError, read_json
    from pydantic import ValidationError

    events = published_events()
    ours = contexts(events)
    intake_types = {event.TYPE: event for event in events if event.OWNER not in ours}
    if type_ not in intake_types:
        known = type_ in {event.TYPE for event in events}
        raise CliError(
            "not_offered" if known else "unknown_event",
            f"{type_} cannot be published",
            why="only its own service records it" if known else "the type does not exist",
            next=f"one of {', '.join(sorted(intake_types))}",
            exit_code=ExitCode.USAGE if known else ExitCode.NOT_FOUND,
        )
    try:
        read_json(payload)
        return intake_types[type_].model_validate_json(payload)
    except JsonError as error:
        raise usage(f"the payload is not a valid {type_}", code="invalid_event", why=f"its JSON: {error}") from None
    except ValidationError as error:
        raise usage(
            f"the payload is not a valid {type_}",
            code="invalid_event",
            why=explain(error),
            next=f"paybill events schema {type_}",
        ) from error


def _read(data: str) -> bytes:
    """Reads the payload; refuses more bytes than the intake accepts."""
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
        raise usage(f"the payload has more than {MAX_BYTES} bytes", code="too_large", next="send smaller payloads")
    return payload
