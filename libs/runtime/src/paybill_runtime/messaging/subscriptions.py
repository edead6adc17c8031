"""Registry of a service's subscriptions: which function handles which event, and the states that it needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from paybill_contracts.envelope import Fact, IntakeEvent
from paybill_contracts.event import Event

from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork

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
            return function

        return register

    def _forbid(self, forbidden: bool) -> None:  # noqa: FBT001  # the condition itself
        if forbidden:
            raise TypeError("a subscription to all facts allows no other; the inbox counts each message once")
