"""What the oracle judges: the log as an operator reads it, and what each service's database says at one instant."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from nats.aio.client import Client
from paybill_runtime.app import Service
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect


@dataclass(frozen=True, slots=True)
class Said:
    """A fact as the stream holds it."""

    sequence: int
    id: str
    type: str
    partition: int
    tenant: str
    aggregate: str
    revision: int
    cause: str


@dataclass(frozen=True, slots=True)
class Row:
    """A fact as the outbox of its owner holds it. `sequence` is None until the bus has confirmed it."""

    position: int
    id: str
    type: str
    tenant: str
    aggregate: str
    revision: int
    cause: str
    sequence: int | None


@dataclass(frozen=True, slots=True)
class Intended:
    """A row of the table of effects."""

    id: str
    work: str
    state: str


@dataclass(slots=True)
class Books:
    """One service's database at one instant.

    newest: the message that each partition is said to have been read to. states: the revision of each aggregate in the
    tables of state.
    """

    service: str
    hears: frozenset[str]
    rows: list[Row]
    inbox: set[str]
    positions: dict[int, int]
    newest: dict[int, str]
    effects: list[Intended]
    parked: int
    states: dict[str, int]
    kinds: frozenset[str]


@dataclass(slots=True)
class Log:
    """The stream, as far as it has been read. connected: makes a connection that may read it."""

    connected: Callable[[], Any]
    facts: list[Said] = field(default_factory=list)
    _client: Client | None = None
    _feed: OrderedConsumer | None = None

    async def read_on(self) -> None:
        """Read up to its end. Raises what NATS raises while it is away; what was read stays."""
        try:
            if self._feed is None:
                self._client = await self.connected()
                self._feed = OrderedConsumer(self._client, EVENTS, ["paybill.events.>"], self.end + 1, batch=1000)
            while await self._feed.pending():
                self.facts += [_said(message) for message in await self._feed.fetch(1)]
        except BaseException:
            await self.close()
            raise

    @property
    def end(self) -> int:
        """The sequence of the last fact that was read."""
        return self.facts[-1].sequence if self.facts else 0

    async def close(self) -> None:
        """Leave; reading on connects again."""
        client, self._client, self._feed = self._client, None, None
        if client is not None:
            await client.close()


def reading_as_operator(url: str, password: str) -> Log:
    """The log at this NATS."""
    return Log(lambda: connect(url, "operator", password, wait_s=1))


def _said(message: Any) -> Said:
    head = message.headers
    return Said(
        sequence=stream_sequence(message),
        id=head["ce-id"],
        type=head["ce-type"],
        partition=int(message.subject.split(".")[2]),
        tenant=head.get("pb-tenant", ""),
        aggregate=head["pb-aggregate"],
        revision=int(head["pb-revision"]),
        cause=head["pb-cause"],
    )


_ROWS = """
SELECT position, event_id::text, headers::jsonb->>'ce-type', coalesce(tenant, ''), aggregate, revision,
       headers::jsonb->>'pb-cause', sequence
FROM chassis.outbox ORDER BY position
"""
_POSITIONS = "SELECT partition, sequence, coalesce(message::text, '') FROM chassis.position WHERE stream = 'EVENTS'"


async def read_books(service: Service, url: str, password: str) -> Books:
    """What the database of `service` says now."""
    connection = await asyncpg.connect(url, password=password, timeout=5)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            states = {}
            for stored in service.states:
                for id_, revision in await connection.fetch(f"SELECT id, revision FROM {stored.table.name}"):
                    states[f"{stored.kind}/{id_}"] = revision
            positions = await connection.fetch(_POSITIONS)
            return Books(
                service=service.name,
                hears=frozenset(service.subscriptions.fact_handlers),
                rows=[Row(*row) for row in await connection.fetch(_ROWS)],
                inbox={row[0] for row in await connection.fetch("SELECT event_id::text FROM chassis.inbox")},
                positions={row[0]: row[1] for row in positions},
                newest={row[0]: row[2] for row in positions},
                effects=[
                    Intended(*row)
                    for row in await connection.fetch(
                        "SELECT event_id::text, work, state FROM chassis.effect ORDER BY position"
                    )
                ],
                parked=await connection.fetchval("SELECT count(*) FROM chassis.parked"),
                states=states,
                kinds=frozenset(stored.kind for stored in service.states),
            )
    finally:
        await connection.close()
