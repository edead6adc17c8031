"""Incoming messages: read from their subject, headers and payload without ever raising."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
from nats.aio.msg import Msg
from paybill_contracts.envelope import Fact, IntakeEvent, MalformedFactError, Origin, read_fact, read_intake_event
from paybill_contracts.errors import DomainError
from paybill_contracts.event import PARTITIONS, Event
from paybill_contracts.signing_keys import Refusal

from paybill_runtime.database.leases import INTAKE as INTAKE_LEASE
from paybill_runtime.database.leases import partition_lease
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import reason, single_line
from paybill_runtime.http.strict_json import JsonError, read_json
from paybill_runtime.messaging.inbox import Queue
from paybill_runtime.messaging.message_ids import message_id as id_of
from paybill_runtime.messaging.message_ids import third_token
from paybill_runtime.messaging.ordered_consumer import stored_at, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, INTAKE
from paybill_runtime.messaging.subscriptions import Handler, StreamMessage, Subscriptions

INTAKE_PARTITION = PARTITIONS
"""The partition of all intake events, which one process handles."""
STREAM_PARTITION = PARTITIONS + 1
"""The partition of a subscription to all facts, which one process handles in stream order."""
STREAM_LEASE = "all-facts"

EARLIEST = datetime.min.replace(tzinfo=UTC)
"""The minute of a message whose time is not known."""
_PARTITION_TOKENS = {str(partition): partition for partition in range(PARTITIONS)}
_TENANT = re.compile(r"ten_[0-9a-f]{32}")


class RefusedFactError(DomainError):
    """A message of EVENTS is no fact of the service that its subject names."""

    code = "refused_fact"


@dataclass(slots=True)
class IncomingMessage:
    """A message, the handler and its argument, and the error of reading or handling it.

    id: its id in our tables. message_id: the one that its headers give it, which differs for a refused one.
    minute: in which NATS stored it.
    """

    stream: str
    id: str
    sequence: int
    partition: int
    tenant: str
    subject: str
    headers: Mapping[str, str]
    payload: bytes
    origin: Origin
    handler: Handler | None = None
    argument: Fact | IntakeEvent | StreamMessage | None = None
    error: Exception | None = None
    refusal: Refusal | None = None
    minute: datetime = EARLIEST
    message_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.message_id = self.id

    def refuse(self, refusal: Refusal) -> None:
        """Makes it a message that is stored and reported, and never handled.

        It gets an id of its own: with that in its header it could stand for a fact that comes later.
        """
        self.refusal, self.handler, self.argument = refusal, None, None
        self.error = RefusedFactError(refusal.explanation)
        self.id = id_of(self.stream, "", {}, self.sequence)
        self.origin = Origin(self.id, self.id, self.origin.actor, "")
        self.tenant = ""

    @property
    def writer(self) -> str:
        """The service that a fact claims to be of: the fourth token of its subject."""
        return single_line((*self.subject.split(".", 4), "", "", "", "")[3])[:63]

    @property
    def queue(self) -> Queue:
        """The queue in which a failed message blocks later ones: its tenant's, apart for intake events."""
        return self.partition, self.tenant

    @property
    def publisher(self) -> str:
        """The publisher of an intake event: the third token of its subject."""
        return single_line(third_token(self.subject))

    @property
    def event(self) -> Event | None:
        """The event of the message, if it could be read."""
        fact = self.argument.fact if isinstance(self.argument, StreamMessage) else self.argument
        return fact.event if fact is not None else None

    def keys(self, which: str) -> Sequence[Key]:
        """Returns the states that the handler needs, for `writes` or `reads`."""
        argument = self.argument if isinstance(self.argument, StreamMessage) else self.event
        if self.handler is None or argument is None:
            return ()
        return getattr(self.handler, which)(argument)  # type: ignore[no-any-return]  # Keys returns Sequence[Key]

    def handle(self, unit: UnitOfWork, context: DecisionContext) -> None:
        """Calls the handler. Raises its error, or the error of reading the message."""
        if self.error is not None:
            raise self.error
        if self.handler is not None and self.argument is not None:
            self.handler.handle(unit, self.event if isinstance(self.argument, Fact) else self.argument, context)


def parse_message(subscriptions: Subscriptions, service: str, message: Msg) -> IncomingMessage:
    """Reads a message of NATS."""
    sequence = stream_sequence(message)
    parts = message.reply.split(".")
    stream = parts[2] if len(parts) == 9 else parts[4]  # noqa: PLR2004  # the two forms of ADR-15
    headers = message.headers or {}
    item = parse_stored(subscriptions, service, stream, sequence, message.subject, headers, message.data)
    if stream == INTAKE:
        item.minute = stored_at(message).replace(second=0, microsecond=0)
    return item


def parse_stored(
    subscriptions: Subscriptions,
    service: str,
    stream: str,
    sequence: int,
    subject: str,
    headers: Mapping[str, str],
    payload: bytes,
) -> IncomingMessage:
    """Reads a message. Never raises: a message that cannot be read carries its error."""
    id_ = id_of(stream, subject, headers, sequence)
    claimed = headers.get("pb-tenant", "") if stream == EVENTS else ""
    tenant = claimed if _TENANT.fullmatch(claimed) else ""
    origin = Origin(id_, id_, f"service:{service}", headers.get("traceparent", ""))
    partition = _partition(subject, stream)
    item = IncomingMessage(stream, id_, sequence, partition, tenant, subject, headers, payload, origin)
    try:
        _read(item, subscriptions)
    except DomainError as error:
        item.error = error
    except Exception as error:  # noqa: BLE001  # bytes of another system must not end the consumer
        item.argument, item.error = None, MalformedFactError(f"it cannot be read: {reason(error)}")
    return item


def _partition(subject: str, stream: str) -> int:
    """Returns the partition in the subject, 0 when it names none; intake events have one of their own."""
    if stream == INTAKE:
        return INTAKE_PARTITION
    return _PARTITION_TOKENS.get(third_token(subject), 0)


def _read(item: IncomingMessage, subscriptions: Subscriptions) -> None:
    if item.stream == INTAKE:
        event = read_intake_event(item.subject, item.headers, item.payload, item.sequence)
        _check(item.payload)
        item.argument, item.handler = event, subscriptions.intake_handlers.get(event.event.TYPE)
        if item.handler is None:
            raise MalformedFactError(f"{event.event.TYPE} is not accepted from publishers")
        item.tenant = event.event.tenant or ""
        item.origin = Origin(event.id, event.id, f"service:{event.publisher}", event.traceparent)
    elif subscriptions.stream_handler is not None:
        fact = None
        with suppress(Exception):  # the handler receives messages that cannot be read as well
            fact = _fact(item)
        item.argument = StreamMessage(item.id, item.sequence, item.subject, item.headers, item.payload, fact)
        item.handler = subscriptions.stream_handler
        item.partition, item.tenant = STREAM_PARTITION, ""
    else:
        fact = _fact(item)
        item.argument, item.handler = fact, subscriptions.fact_handlers.get(fact.event.TYPE)


def _check(payload: bytes) -> None:
    """Refuses a payload that its publisher and another consumer could read differently."""
    try:
        read_json(payload)
    except JsonError as error:
        raise MalformedFactError(f"the payload is refused: {error}") from None


def _fact(item: IncomingMessage) -> Fact:
    fact = read_fact(item.subject, item.headers, item.payload, item.sequence)
    item.origin = Origin(item.id, fact.origin.correlation, item.origin.actor, fact.origin.traceparent)
    return fact


def lease_of(stream: str, partition: int) -> str:
    """Returns the lease under which messages of a partition are handled."""
    if partition == STREAM_PARTITION:
        return STREAM_LEASE
    return INTAKE_LEASE if stream == INTAKE else partition_lease(partition)


def headers_json(headers: Mapping[str, str]) -> str:
    """Returns headers in the form of our tables."""
    return orjson.dumps(dict(headers)).decode()
