"""`paybill events show` and `schema`: one event with all fields, and the schemas of all event types."""

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from paybill_cli.client.stack import Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js.api import RawStreamMsg

SEQUENCE = re.compile(r"[1-9][0-9]{0,17}")
"""A sequence of the log."""
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_CLOCK_SKEW = timedelta(seconds=10)
"""Largest difference between the clocks of a service and of NATS."""


async def show(
    out: Output,
    stack: Stack,
    fact: Annotated[str, typer.Argument(help="Sequence in the log, or id of the event.", metavar="EVENT")],
) -> None:
    """Show one event: its headers and its payload.

    Example: paybill events show 42
    """
    from paybill_cli.client.event_log import connected, event_fields, read_event, stream_info

    async with connected(stack.nats()) as client:
        last = (await stream_info(client)).state.last_seq
        if SEQUENCE.fullmatch(fact):
            sequence = int(fact)
        elif _ID.fullmatch(fact):
            sequence = await _sequence_of(client, fact, last)
        else:
            raise usage(f"{fact!r} is neither a sequence nor an id", next="paybill events tail --no-follow")
        found = await message_at(client, sequence, last)
    subject, headers, payload = found.subject or "", found.headers or {}, found.data or b""
    event = event_fields(sequence, subject, headers, payload) | {"stored_at": found.time and found.time.isoformat()}
    read, sentence = read_event(subject, headers, payload)
    out.record("event", event | ({"fault": sentence} if read is None else {"sentence": sentence}))


def schema(
    out: Output,
    event_type: Annotated[
        str | None, typer.Argument(metavar="TYPE", help="Type, such as usage.recorded, or usage.recorded.v1.")
    ] = None,
) -> None:
    """List the event types, or print the JSON Schema of one.

    Example: paybill events schema usage.recorded
    """
    from paybill_contracts.schemas import name_of, published_events, schema_of

    events = published_events()
    if event_type is None:
        rows = [
            {
                "type": event.TYPE,
                "version": event.VERSION,
                "owner": event.OWNER,
                "aggregate": event.AGGREGATE,
                "about": (event.__doc__ or "").partition("\n")[0],
            }
            for event in events
        ]
        out.rows("event.schemas", rows, ("type", "version", "aggregate", "about"))
        return
    found = [event for event in events if event_type in {event.TYPE, name_of(event)}]
    if not found:
        raise CliError(
            "unknown_event",
            f"there is no event type {event_type}",
            next="paybill events schema",
            exit_code=ExitCode.NOT_FOUND,
        )
    out.document("event.schema", schema_of(found[-1]))


async def message_at(client: "Client", sequence: int, last: int) -> "RawStreamMsg":
    """Returns the message at a sequence. Raises CliError fact_not_found."""
    from nats.js.errors import NotFoundError

    from paybill_cli.client.event_log import EVENTS

    try:
        return await client.jetstream().get_msg(EVENTS, sequence)
    except NotFoundError as error:
        raise CliError(
            "fact_not_found",
            f"the log has no seq {sequence}",
            why=f"it ends at seq {last}",
            next="paybill events tail --no-follow",
            exit_code=ExitCode.NOT_FOUND,
        ) from error


async def _sequence_of(client: "Client", id_: str, last: int) -> int:
    """Finds the event by its UUIDv7: the first 48 bits are its time, and a binary search finds that time in the log."""
    from paybill_runtime.messaging.ordered_consumer import stream_sequence

    from paybill_cli.client.event_log import first_since, messages

    created = datetime.fromtimestamp(int(id_.replace("-", "")[:12], 16) / 1000, UTC) - _CLOCK_SKEW
    first = await first_since(client, created)
    async for message in messages(client, ["paybill.events.>"], first, last):
        if (message.headers or {}).get("ce-id") == id_:
            return stream_sequence(message)
    raise CliError(
        "fact_not_found",
        f"the log has no event {id_}",
        why="it may still be in its service's outbox or in the intake",
        next="paybill doctor",
        exit_code=ExitCode.NOT_FOUND,
    )
