"""Registry of a service's subscriptions: which function handles which event, and the states that it needs.

Each is also declared on a router of FastStream, together with the events that the service publishes. Nothing starts the
router: it is the source of the AsyncAPI document (`asyncapi`), and the consumer delivers the messages in batches.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from faststream import AckPolicy
from faststream.nats import JStream, NatsRouter, PullSub
from paybill_contracts.envelope import EVENTS_ROOT, INTAKE_ROOT, Fact, IntakeEvent
from paybill_contracts.event import Event
from paybill_contracts.schemas import name_of

from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.messaging.streams import EVENTS, INTAKE

E = TypeVar("E", bound=Event)
Keys = Callable[[Any], Sequence[Key]]
Handle = Callable[[UnitOfWork, Any, DecisionContext], None]


def _no_keys(_input: Any) -> Sequence[Key]:  # any event
    return ()


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """A message of the stream EVENTS, for a subscription to all subjects.

    fact: None when this version does not know the event's type, or when headers, subject and payload do not agree.
    """

    id: str
    sequence: int
    subject: str
    headers: Mapping[str, str]
    payload: bytes
    fact: Fact | None


FactHandler = Callable[[UnitOfWork, E, DecisionContext], None]
IntakeHandler = Callable[[UnitOfWork, IntakeEvent, DecisionContext], None]
StreamHandler = Callable[[UnitOfWork, StreamMessage, DecisionContext], None]


def fact_address(event: type[Event]) -> str:
    """Returns the subject of a type of fact, with the partition as a parameter."""
    return f"{EVENTS_ROOT}.{{partition}}.{name_of(event)}"


@dataclass(frozen=True, slots=True)
class Handler:
    """The function for one type of event, and the states that it needs."""

    event: type[Event]
    handle: Handle
    writes: Keys
    reads: Keys


class Subscriptions:
    """The subscriptions of a service, in its consumer.py."""

    def __init__(self) -> None:
        self.fact_handlers: dict[str, Handler] = {}
        self.intake_handlers: dict[str, Handler] = {}
        self.stream_handler: Handler | None = None
        self.published: dict[str, type[Event]] = {}
        self.followed: set[str] = set()
        self.router = NatsRouter()

    def fact(
        self,
        event: type[E],
        *,
        writes: Callable[[E], Sequence[Key]] = _no_keys,
        reads: Callable[[E], Sequence[Key]] = _no_keys,
    ) -> Callable[[FactHandler[E]], FactHandler[E]]:
        """Subscribes to a type of fact, in the order of each tenant; `writes` and `reads` name the states to load."""

        def register(function: FactHandler[E]) -> FactHandler[E]:
            if event.TYPE in self.fact_handlers:
                raise TypeError(f"{event.TYPE} has two handlers; call the second function from the first")
            self._forbid(self.stream_handler is not None)
            self.fact_handlers[event.TYPE] = Handler(event, function, writes, reads)
            self._declare(name_of(event), fact_address(event), EVENTS, event)
            return function

        return register

    def intake(
        self,
        event: type[E],
        *,
        writes: Callable[[E], Sequence[Key]] = _no_keys,
        reads: Callable[[E], Sequence[Key]] = _no_keys,
    ) -> Callable[[IntakeHandler], IntakeHandler]:
        """Subscribes to an event that other systems publish to INTAKE; a DomainError quarantines it."""

        def register(function: IntakeHandler) -> IntakeHandler:
            self.intake_handlers[event.TYPE] = Handler(event, function, writes, reads)
            self._declare(name_of(event), f"{INTAKE_ROOT}.{{publisher}}.{name_of(event)}", INTAKE, event)
            return function

        return register

    def all_facts(
        self,
        *,
        writes: Callable[[StreamMessage], Sequence[Key]] = _no_keys,
        reads: Callable[[StreamMessage], Sequence[Key]] = _no_keys,
    ) -> Callable[[StreamHandler], StreamHandler]:
        """Subscribes to every subject of the stream EVENTS, in stream order, also to types that are unknown here.

        One process of the service handles them. A message that fails blocks all later ones until it is retried.
        """

        def register(function: StreamHandler) -> StreamHandler:
            self._forbid(bool(self.fact_handlers) or self.stream_handler is not None)
            self.stream_handler = Handler(Event, function, writes, reads)
            self._declare("all_facts", f"{EVENTS_ROOT}.>", EVENTS, Event)
            return function

        return register

    def publishes(self, events: Iterable[type[Event]]) -> None:
        """Declares the events that the service publishes, each once; the relay publishes them from the outbox."""
        for event in events:
            if event.TYPE not in self.published:
                self.published[event.TYPE] = event
                self.router.publisher(fact_address(event), schema=event, title=f"send.{name_of(event)}")

    def follows(self, events: Iterable[type[Event]]) -> None:
        """Declares events that every process reads beside its handlers, each once."""
        for event in events:
            if event.TYPE not in self.followed:
                self.followed.add(event.TYPE)
                self._declare(name_of(event), fact_address(event), EVENTS, event)

    def _declare(self, name: str, address: str, stream: str, event: type[Event]) -> None:
        async def receive(message: Any) -> None:
            raise NotImplementedError(f"the consumer delivers {name} in batches")

        receive.__annotations__["message"] = event
        subscriber = self.router.subscriber(
            address,
            stream=JStream(stream, declare=False),
            pull_sub=PullSub(),
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
            title=f"receive.{name}",
        )
        subscriber(receive)

    def _forbid(self, forbidden: bool) -> None:  # noqa: FBT001  # the condition itself
        if forbidden:
            raise TypeError("a subscription to all facts allows no other; the inbox counts each message once")
