"""Records the events of the log: prints each one when it arrives, and waits for expected ones."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from paybill_contracts.envelope import Fact, read_fact, subject_of
from paybill_contracts.event import Event
from paybill_contracts.schemas import published_events
from paybill_contracts.tenant import TenantRequested
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_stack.access import BusAccess

from paybill_cli.demo.printer import Printer

E = TypeVar("E", bound=Event)

TIMEOUT_S = 20.0
_OPERATOR = "operator"
_FETCH_S = 1.0
_MAX_LISTED = 4


class NotObservedError(Exception):
    """Raised when a check fails or an expected event does not arrive. `observed`: what happened instead."""

    def __init__(self, check: str, observed: str) -> None:
        super().__init__(check)
        self.check = check
        self.observed = observed


class EventRecorder:
    """All events since the start of the demo, and earlier ones of the log."""

    def __init__(self, consumer: OrderedConsumer, printer: Printer, last_earlier: int, timeout_s: float) -> None:
        self._consumer = consumer
        self._printer = printer
        self._last_earlier = last_earlier
        self._timeout_s = timeout_s
        self._slugs: dict[str, str] = {}
        self._arrived = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self.facts: list[Fact] = []

    @property
    def printed(self) -> int:
        """Number of printed events."""
        return sum(fact.sequence > self._last_earlier for fact in self.facts)

    @property
    def last_sequence(self) -> int:
        """Sequence of the newest event, for the parameter `after`."""
        return self.facts[-1].sequence if self.facts else 0

    def start(self) -> None:
        """Starts to record in the background."""
        self._task = asyncio.create_task(self._record())

    async def stop(self) -> None:
        """Stops to record."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _record(self) -> None:
        published_events()
        while True:
            for message in await self._consumer.fetch(_FETCH_S):
                fact = read_fact(message.subject, message.headers, message.data, stream_sequence(message))
                if isinstance(fact.event, TenantRequested):
                    self._slugs[fact.event.tenant_id] = fact.event.slug
                async with self._arrived:
                    self.facts.append(fact)
                    if fact.sequence > self._last_earlier:
                        self._printer.fact(fact, self._slug(fact))
                    self._arrived.notify_all()

    async def expect(
        self, kind: type[E], where: Callable[[E], bool] = lambda _: True, *, after: int = 0, tenant: str = ""
    ) -> E:
        """Waits for the first event of this type after the sequence `after`, of `tenant`, that `where` accepts.

        Raises NotObservedError when it does not arrive in time.
        """

        def find() -> E | None:
            return next(
                (
                    fact.event
                    for fact in self.facts
                    if fact.sequence > after
                    and isinstance(fact.event, kind)
                    and tenant in {"", fact.event.tenant}
                    and where(fact.event)
                ),
                None,
            )

        try:
            async with asyncio.timeout(self._timeout_s), self._arrived:
                await self._arrived.wait_for(lambda: find() is not None)
        except TimeoutError:
            subject = f" of {self._slugs.get(tenant, tenant)}" if tenant else ""
            raise NotObservedError(
                f"the event {kind.TYPE}{subject} within {self._timeout_s:g} s", self._newest(after, tenant)
            ) from None
        event = find()
        if event is None:
            raise RuntimeError("a recorded event is never removed")
        return event

    def fact_of(self, event: Event) -> Fact:
        """Returns the envelope of a recorded event."""
        return next(fact for fact in self.facts if fact.event is event)

    def _slug(self, fact: Fact) -> str:
        tenant = fact.event.tenant
        return "" if tenant is None else self._slugs.get(tenant, tenant)

    def _newest(self, after: int, tenant: str) -> str:
        """Lists the newest events, for the diagnosis of a failed demo."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            return f"the log could not be read: {self._task.exception()}"
        newer = [fact for fact in self.facts if fact.sequence > after and tenant in {"", fact.event.tenant}]
        return ", ".join(f"#{each.sequence} {subject_of(each.event)}" for each in newer[-_MAX_LISTED:]) or "no event"


@asynccontextmanager
async def recorded(
    bus: BusAccess, printer: Printer, *, fresh: bool, timeout_s: float = TIMEOUT_S
) -> AsyncIterator[EventRecorder]:
    """Records the log as the operator while the block runs; prints earlier events only if `fresh`."""
    client = await connect(bus.url, _OPERATOR, bus.password(_OPERATOR), wait_s=TIMEOUT_S)
    consumer = OrderedConsumer(client, EVENTS, ["paybill.events.>"], 1)
    info = await client.jetstream().stream_info(EVENTS)
    recorder = EventRecorder(consumer, printer, 0 if fresh else info.state.last_seq, timeout_s)
    recorder.start()
    try:
        yield recorder
    finally:
        await recorder.stop()
        await consumer.close()
        await client.close()
