"""What a service listens to, and what each message is once it has been read."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID, uuid5

import orjson
from nats.aio.msg import Msg
from paybill_contracts.envelope import Fact, IntakeEvent, MalformedFactError, Origin, read_fact, read_intake_event
from paybill_contracts.errors import DomainError
from paybill_contracts.event import PARTITIONS, Event

from paybill_runtime.database.leases import INTAKE as INTAKE_LEASE
from paybill_runtime.database.leases import partition_lease
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import reason, single_line
from paybill_runtime.messaging.ordered_consumer import stream_sequence
from paybill_runtime.messaging.streams import EVENTS, INTAKE

E = TypeVar("E", bound=Event)
FactHandler = Callable[[UnitOfWork, E, DecisionContext], None]
IntakeHandler = Callable[[UnitOfWork, IntakeEvent, DecisionContext], None]
Keys = Callable[[Any], Sequence[Key]]
Handle = Callable[[UnitOfWork, Any, DecisionContext], None]

_PUBLISHERS = UUID("5f0c4c2a-3a0e-4d0e-9d1e-6f0a1c8f2b11")
"""The namespace in which publishers' ids become ours: two publishers may use the same id."""
_PARTITION_TOKENS = {str(place): place for place in range(PARTITIONS)}
UUID_TEXT = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TENANT = re.compile(r"ten_[0-9a-f]{32}")


def _nothing(_event: Any) -> Sequence[Key]:  # any event
    return ()


@dataclass(frozen=True, slots=True)
class Handler:
    """One function that hears one type, and the states that it needs."""

    event: type[Event]
    handle: Handle
    writes: Keys
    reads: Keys


class Subscriptions:
    """The table of a service's consumer.py: each type and the function that hears it."""

    def __init__(self) -> None:
        self.fact_handlers: dict[str, Handler] = {}
        self.intake_handlers: dict[str, Handler] = {}

    def fact(
        self,
        event: type[E],
        *,
        writes: Callable[[E], Sequence[Key]] = _nothing,
        reads: Callable[[E], Sequence[Key]] = _nothing,
    ) -> Callable[[FactHandler[E]], FactHandler[E]]:
        """Hear a fact of the stream EVENTS; `writes` and `reads` name the states that the function looks at."""

        def register(function: FactHandler[E]) -> FactHandler[E]:
            if event.TYPE in self.fact_handlers:
                raise TypeError(f"{event.TYPE} is heard twice; call the second function from the first")
            self.fact_handlers[event.TYPE] = Handler(event, function, writes, reads)
            return function

        return register

    def intake(
        self,
        event: type[E],
        *,
        writes: Callable[[E], Sequence[Key]] = _nothing,
        reads: Callable[[E], Sequence[Key]] = _nothing,
    ) -> Callable[[IntakeHandler], IntakeHandler]:
        """Hear what internal services publish to INTAKE; a DomainError quarantines it with the reason."""

        def register(function: IntakeHandler) -> IntakeHandler:
            self.intake_handlers[event.TYPE] = Handler(event, function, writes, reads)
            return function

        return register


@dataclass(slots=True)
class IncomingMessage:
    """A message on its way through: as it came, as it was read, and what went wrong."""

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
    argument: Fact | IntakeEvent | None = None
    error: Exception | None = None

    @property
    def queue(self) -> tuple[int, str]:
        """Whom it waits behind when it is parked: earlier messages of its tenant. Offers have queues of their own."""
        return self.partition, self.tenant

    @property
    def publisher(self) -> str:
        """Who sent it, as the third token of an intake subject says."""
        return single_line(_third(self.subject))

    @property
    def event(self) -> Event | None:
        """The event inside, if it could be read."""
        return self.argument.event if self.argument is not None else None

    def keys(self, which: str) -> Sequence[Key]:
        """The states that the handler needs, for `writes` or `reads`."""
        if self.handler is None or self.event is None:
            return ()
        return getattr(self.handler, which)(self.event)  # type: ignore[no-any-return]  # Keys returns Sequence[Key]

    def handle(self, unit: UnitOfWork, at: DecisionContext) -> None:
        """Let the handler decide."""
        if self.error is not None:
            raise self.error
        if self.handler is not None and self.argument is not None:
            self.handler.handle(unit, self.argument.event if isinstance(self.argument, Fact) else self.argument, at)


def parse_message(hearing: Subscriptions, service: str, message: Msg) -> IncomingMessage:
    """What has arrived from NATS."""
    sequence = stream_sequence(message)
    parts = message.reply.split(".")
    stream = parts[2] if len(parts) == 9 else parts[4]  # noqa: PLR2004  # the two forms of ADR-15
    return parse_stored(hearing, service, stream, sequence, message.subject, message.headers or {}, message.data)


def parse_stored(
    hearing: Subscriptions,
    service: str,
    stream: str,
    sequence: int,
    subject: str,
    headers: Mapping[str, str],
    payload: bytes,
) -> IncomingMessage:
    """Read one message. It never raises: what cannot be read carries its error."""
    id_ = message_id(stream, subject, headers, sequence)
    told = headers.get("pb-tenant", "") if stream == EVENTS else ""
    tenant = told if _TENANT.fullmatch(told) else ""
    origin = Origin(id_, id_, f"service:{service}", headers.get("traceparent", ""))
    item = IncomingMessage(
        stream, id_, sequence, _partition(subject, stream), tenant, subject, headers, payload, origin
    )
    try:
        _read(item, hearing)
    except DomainError as error:
        item.error = error
    except Exception as error:  # noqa: BLE001  # no bytes of a stranger may end the loop that reads them
        item.argument, item.error = None, MalformedFactError(f"it cannot be read: {reason(error)}")
    return item


def _partition(subject: str, stream: str) -> int:
    """The partition that the subject names, 0 when it names none; offers share one more, with one reader."""
    if stream == INTAKE:
        return PARTITIONS
    return _PARTITION_TOKENS.get(_third(subject), 0)


def _third(subject: str) -> str:
    """The third token of a subject: the partition of a fact, the publisher of an offer."""
    return (*subject.split(".", 3), "", "", "")[2]


def _read(item: IncomingMessage, hearing: Subscriptions) -> None:
    if item.stream == INTAKE:
        offer = read_intake_event(item.subject, item.headers, item.payload, item.sequence)
        item.argument, item.handler = offer, hearing.intake_handlers.get(offer.event.TYPE)
        if item.handler is None:
            raise MalformedFactError(f"{offer.event.TYPE} is nothing that may be published from outside")
        item.tenant = offer.event.tenant or ""
        item.origin = Origin(offer.id, offer.id, f"service:{offer.publisher}", offer.traceparent)
    else:
        fact = read_fact(item.subject, item.headers, item.payload, item.sequence)
        item.argument, item.handler = fact, hearing.fact_handlers.get(fact.event.TYPE)
        item.origin = Origin(item.id, fact.origin.correlation, item.origin.actor, fact.origin.traceparent)


def message_id(stream: str, subject: str, headers: Mapping[str, str], sequence: int) -> str:
    """What a message is called in our tables: the id of a fact, or one made from its publisher's."""
    if stream == INTAKE:
        return str(uuid5(_PUBLISHERS, f"{_third(subject)}/{headers.get('ce-id') or sequence}"))
    given = headers.get("ce-id", "")
    if UUID_TEXT.fullmatch(given) is not None:
        return given
    try:
        return str(UUID(given))
    except ValueError:
        return str(uuid5(_PUBLISHERS, f"{EVENTS}/{sequence}"))


def lease_of(stream: str, partition: int) -> str:
    """The lease that the owner of this message holds."""
    return INTAKE_LEASE if stream == INTAKE else partition_lease(partition)


def headers_json(headers: Mapping[str, str]) -> str:
    """Headers as they are kept in a table."""
    return orjson.dumps(dict(headers)).decode()
