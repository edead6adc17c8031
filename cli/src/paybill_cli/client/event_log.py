"""The event log for operators: a NATS connection, events from a sequence on, and their fields."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import cache
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError
from nats.js.api import StreamInfo
from nats.js.errors import NotFoundError
from paybill_contracts.envelope import read_fact
from paybill_contracts.errors import DomainError
from paybill_contracts.event import Event
from paybill_contracts.schemas import published_events
from paybill_contracts.sentences import sentence
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence

from paybill_cli.client.stack import NatsAccess
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode

EVENTS = "EVENTS"
_FETCH_S = 1.0
_CONNECTION_ERRORS = (NatsError, OSError, TimeoutError)


async def _ignore(_: Exception) -> None:
    """Keeps the client from logging an error that it also raises."""


@asynccontextmanager
async def connected(access: NatsAccess) -> AsyncIterator[Client]:
    """Connects without automatic reconnects: the caller reconnects and continues from its own position.

    Raises CliError nats_denied, or nats_unreachable: at once, or when the connection is lost inside the block.
    """
    client = Client()
    try:
        try:
            await client.connect(
                access.url,
                user=access.user,
                password=access.password,
                inbox_prefix=f"_INBOX_{access.user}".encode(),
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=2,
                error_cb=_ignore,
            )
        except _CONNECTION_ERRORS as error:
            raise _refused(access, error) from error
        try:
            yield client
        except _CONNECTION_ERRORS as error:
            raise _unreachable(f"the connection to NATS at {access.url} is lost", error) from error
    finally:
        with suppress(*_CONNECTION_ERRORS):
            await client.close()


def _refused(access: NatsAccess, error: Exception) -> CliError:
    if "authorization" in str(error).lower():
        return CliError(
            "nats_denied",
            f"NATS at {access.url} rejects the login of {access.user}",
            next="check PAYBILL_NATS_USER and PAYBILL_NATS_PASSWORD_FILE, or --data-dir",
            exit_code=ExitCode.DENIED,
        )
    return _unreachable(f"NATS does not answer at {access.url}", error)


def _unreachable(message: str, error: Exception) -> CliError:
    return CliError(
        "nats_unreachable",
        message,
        why=str(error) or type(error).__name__,
        next="start the stack with `paybill up`, or check --nats-url",
        exit_code=ExitCode.UNREACHABLE,
    )


async def stream_info(client: Client, stream: str = EVENTS) -> StreamInfo:
    """Fetches configuration and state of a stream. Raises CliError no_stream."""
    try:
        return await client.jetstream().stream_info(stream)
    except NotFoundError as error:
        raise CliError(
            "no_stream",
            f"the stream {stream} does not exist",
            why="the NATS user steward, which may create and change streams, creates them before the services start",
            next="paybill up, or for another NATS: PAYBILL_NATS_URL=URL PAYBILL_NATS_USER=steward "
            "PAYBILL_NATS_PASSWORD_FILE=FILE python -m paybill_runtime.messaging.streams",
            exit_code=ExitCode.NOT_FOUND,
        ) from error


async def messages(client: Client, filters: list[str], start: int, until: int | None) -> AsyncIterator[Msg]:
    """Yields matching messages of EVENTS from sequence `start` on: without end, or up to the sequence `until`.

    Raises an error of NATS when the connection is lost; `connected` maps it.
    """
    consumer = OrderedConsumer(client, EVENTS, filters, start)
    try:
        while until is None or await consumer.pending() > 0:
            for message in await consumer.fetch(_FETCH_S):
                if until is not None and stream_sequence(message) > until:
                    return
                yield message
            if client.is_closed:
                raise ConnectionClosedError
    finally:
        with suppress(*_CONNECTION_ERRORS):
            await consumer.close()


async def first_since(client: Client, moment: datetime) -> int:
    """Returns the sequence of the first event that the log stored at `moment` or later, by binary search."""
    low, high = 1, (await stream_info(client)).state.last_seq + 1
    while low < high:
        middle = (low + high) // 2
        stored = (await client.jetstream().get_msg(EVENTS, middle)).time
        low, high = (middle + 1, high) if stored is None or stored < moment else (low, middle)
    return low


def event_fields(sequence: int, subject: str, headers: dict[str, str], payload: bytes) -> dict[str, Any]:
    """Returns the fields of a message, also of one that our library did not write: missing fields are null."""
    revision, version = headers.get("pb-revision", ""), subject.rpartition(".v")[2]
    return {
        "sequence": sequence,
        "time": headers.get("ce-time"),
        "type": headers.get("ce-type"),
        "version": int(version) if version.isdecimal() else None,
        "id": headers.get("ce-id"),
        "tenant": headers.get("pb-tenant"),
        "aggregate": headers.get("pb-aggregate"),
        "revision": int(revision) if revision.isdecimal() else None,
        "actor": headers.get("pb-actor"),
        "cause": headers.get("pb-cause"),
        "correlation": headers.get("pb-correlation"),
        "trace_id": headers.get("traceparent", "")[3:35] or None,
        "subject": subject,
        "payload": _payload(payload),
    }


@cache
def _load_event_types() -> None:
    """Imports every event type, once: reading finds only imported ones."""
    published_events()


def read_event(subject: str, headers: dict[str, str], payload: bytes) -> tuple[Event | None, str]:
    """Returns the event of a message and its sentence; None and the reason if no service can read it."""
    _load_event_types()
    try:
        event = read_fact(subject, headers, payload).event
    except DomainError as error:
        return None, f"no service can read this message ({error.code}: {error})"
    return event, sentence(event)


def _payload(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except ValueError:
        return payload.decode("utf-8", "backslashreplace")
