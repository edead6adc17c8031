"""The log as it grows: every fact is shown when it lands, kept, and can be waited for."""

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

from paybill_cli.demo.voice import Voice

E = TypeVar("E", bound=Event)

PATIENCE_S = 20.0
_OPERATOR = "operator"
_POLL_S = 1.0
_SHOWN = 4


class NotObservedError(Exception):
    """Something that belongs to the story did not happen. `seen`: what happened instead."""

    def __init__(self, what: str, seen: str) -> None:
        super().__init__(what)
        self.what = what
        self.seen = seen


class Journal:
    """All facts since the demo began, and those that were in the log before."""

    def __init__(self, feed: OrderedConsumer, voice: Voice, silent_upto: int, patience_s: float) -> None:
        self._feed = feed
        self._voice = voice
        self._silent_upto = silent_upto
        self._patience_s = patience_s
        self._slugs: dict[str, str] = {}
        self._landed = asyncio.Condition()
        self.facts: list[Fact] = []
        self.following: asyncio.Task[None] | None = None

    @property
    def told(self) -> int:
        """How many facts were shown."""
        return sum(fact.sequence > self._silent_upto for fact in self.facts)

    @property
    def upto(self) -> int:
        """The sequence of the newest fact, for `after`."""
        return self.facts[-1].sequence if self.facts else 0

    async def follow(self) -> None:
        """Read for ever, whatever anybody publishes."""
        published_events()
        while True:
            for message in await self._feed.fetch(_POLL_S):
                fact = read_fact(message.subject, message.headers, message.data, stream_sequence(message))
                if isinstance(fact.event, TenantRequested):
                    self._slugs[fact.event.tenant_id] = fact.event.slug
                async with self._landed:
                    self.facts.append(fact)
                    if fact.sequence > self._silent_upto:
                        self._voice.fact(fact, self._slug(fact))
                    self._landed.notify_all()

    async def expect(
        self, kind: type[E], where: Callable[[E], bool] = lambda _: True, *, after: int = 0, tenant: str = ""
    ) -> E:
        """The first fact of this kind behind the sequence `after`, about `tenant` if given, that `where` accepts.

        Raises NotObservedError when it does not land in time.
        """

        def found() -> E | None:
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
            async with asyncio.timeout(self._patience_s), self._landed:
                await self._landed.wait_for(lambda: found() is not None)
        except TimeoutError:
            of_whom = f" of {self._slugs.get(tenant, tenant)}" if tenant else ""
            raise NotObservedError(
                f"the fact {kind.TYPE}{of_whom} within {self._patience_s:g} s", self._latest(after, tenant)
            ) from None
        event = found()
        if event is None:
            raise RuntimeError("a fact is never taken back")
        return event

    def fact_of(self, event: Event) -> Fact:
        """The envelope of an event that was seen."""
        return next(fact for fact in self.facts if fact.event is event)

    def _slug(self, fact: Fact) -> str:
        tenant = fact.event.tenant
        return "" if tenant is None else self._slugs.get(tenant, tenant)

    def _latest(self, after: int, tenant: str) -> str:
        """The newest facts, for whoever has to find out what went wrong."""
        if self.following is not None and self.following.done() and not self.following.cancelled():
            return f"the log could not be read on: {self.following.exception()}"
        newer = [fact for fact in self.facts if fact.sequence > after and tenant in {"", fact.event.tenant}]
        return ", ".join(f"#{each.sequence} {subject_of(each.event)}" for each in newer[-_SHOWN:]) or "no fact"


@asynccontextmanager
async def observed(
    bus: BusAccess, voice: Voice, *, fresh: bool, patience_s: float = PATIENCE_S
) -> AsyncIterator[Journal]:
    """The journal of the log, read as the operator while the block runs; what is old is not shown unless `fresh`."""
    client = await connect(bus.url, _OPERATOR, bus.password(_OPERATOR), wait_s=PATIENCE_S)
    feed = OrderedConsumer(client, EVENTS, ["paybill.events.>"], 1)
    info = await client.jetstream().stream_info(EVENTS)
    journal = Journal(feed, voice, 0 if fresh else info.state.last_seq, patience_s)
    journal.following = asyncio.create_task(journal.follow())
    try:
        yield journal
    finally:
        journal.following.cancel()
        await asyncio.gather(journal.following, return_exceptions=True)
        await feed.close()
        await client.close()
