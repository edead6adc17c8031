"""`paybill events void`: declares an event void that no service decided, and lists what was decided because of it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.errors import usage
from paybill_cli.options import ConfirmedOptions, Reason
from paybill_cli.output import Output

if TYPE_CHECKING:
    from nats.aio.client import Client

COLUMNS = ("sequence", "tenant", "type", "aggregate", "cause")


async def void(
    out: Output,
    stack: Stack,
    options: ConfirmedOptions,
    place: Annotated[str, typer.Argument(help="Sequence of the event in the log.", metavar="SEQUENCE")],
    reason: Reason,
) -> None:
    """Declare an event void, and list what was decided because of it.

    It is for events that no service decided. Services that have not handled it skip it, and its incident closes. What
    was decided stays, and has to be corrected.

    Example: paybill events void 42 --reason "written with a stolen password" --yes
    """
    from paybill_contracts.voided_events import payload_digest
    from paybill_runtime.messaging.message_ids import message_id

    from paybill_cli.client.event_log import EVENTS, connected, stream_info
    from paybill_cli.commands.events import SEQUENCE, message_at

    if not SEQUENCE.fullmatch(place):
        raise usage(f"{place!r} is no sequence", next="paybill incident list")
    sequence = int(place)
    async with connected(stack.nats()) as client:
        last = (await stream_info(client)).state.last_seq
        found = await message_at(client, sequence, last)
        subject, headers = found.subject or "", found.headers or {}
        id_ = message_id(EVENTS, subject, headers, sequence)
        decided = await _decided(client, id_, sequence, last)
    body = {
        "sequence": sequence,
        "event_id": id_,
        "digest": payload_digest(found.data or b""),
        "subject": subject,
        "reason": reason,
    }
    if not out.json:
        out.rows("event.consequences", decided, COLUMNS)
        out.info(f"{len(decided)} events were decided because of event {sequence} ({subject})")
    with Service(stack, "tenant") as tenants:
        if options.dry_run:
            preview(out, tenants, "/v1/voided-events", body, options.idempotency_key)
            return
        out.confirm(f"Declare event {sequence} ({subject}) void? This cannot be undone.", yes=options.yes)
        result = post(out, tenants, "/v1/voided-events", body, options.idempotency_key)
    out.record("event.void", body | {"void_id": result["void_id"], "decided": decided}, ("sequence", "event_id"))


async def _decided(client: "Client", id_: str, sequence: int, last: int) -> list[dict[str, Any]]:
    """Returns the events that it caused, directly or through others, in the order of the log."""
    from paybill_runtime.messaging.ordered_consumer import stream_sequence

    from paybill_cli.client.event_log import event_fields, messages

    causes, found = {id_}, []
    async for message in messages(client, ["paybill.events.>"], sequence + 1, last):
        headers = message.headers or {}
        if headers.get("pb-cause") in causes or headers.get("pb-correlation") == id_:
            causes.add(headers.get("ce-id", ""))
            fields = event_fields(stream_sequence(message), message.subject, headers, message.data)
            found.append({key: value for key, value in fields.items() if key != "payload"})
    return found
