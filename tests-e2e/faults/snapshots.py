"""Input of the invariant checks: the log as an operator reads it, and a snapshot of each service's database."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from nats.aio.client import Client
from paybill_runtime.app import Service
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect


@dataclass(frozen=True, slots=True)
class StreamFact:
    """A fact in the stream."""

    sequence: int
    id: str
    type: str
    partition: int
    tenant: str
    aggregate: str
    revision: int
    cause: str


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A fact in its owner's outbox. `sequence` is None until the stream has confirmed it."""

    position: int
    id: str
    type: str
    tenant: str
    aggregate: str
    revision: int
    cause: str
    sequence: int | None


@dataclass(frozen=True, slots=True)
class EffectRow:
    """A row of the table of effects."""

    id: str
    work: str
    state: str


@dataclass(slots=True)
class ServiceSnapshot:
    """One service's database at one instant.

    newest: the last handled message of each partition. states: the revision of each aggregate in the tables of state.
    """

    service: str
    handled_types: frozenset[str]
    rows: list[OutboxRow]
    inbox: set[str]
    positions: dict[int, int]
    newest: dict[int, str]
    effects: list[EffectRow]
    retrying: int
    states: dict[str, int]
    kinds: frozenset[str]


@dataclass(slots=True)
class Log:
    """The stream, as far as it was read. connected: opens a connection with the right to read it."""

    connected: Callable[[], Any]
    facts: list[StreamFact] = field(default_factory=list)
    _client: Client | None = None
    _consumer: OrderedConsumer | None = None

    async def read_to_end(self) -> None:
        """Reads to the end of the stream. Raises NATS errors while it is down; facts read before are kept."""
        try:
            if self._consumer is None:
                self._client = await self.connected()
                self._consumer = OrderedConsumer(self._client, EVENTS, ["paybill.events.>"], self.end + 1, batch=1000)
            while await self._consumer.pending():
                self.facts += [_fact(message) for message in await self._consumer.fetch(1)]
        except BaseException:
            await self.close()
            raise

    @property
    def end(self) -> int:
        """Returns the sequence of the last fact that was read."""
        return self.facts[-1].sequence if self.facts else 0

    async def close(self) -> None:
        """Closes the connection; the next read opens a new one."""
        client, self._client, self._consumer = self._client, None, None
        if client is not None:
            await client.close()


def operator_log(url: str, password: str) -> Log:
    """Returns the log of this NATS server, read as an operator."""
    return Log(lambda: connect(url, "operator", password, wait_s=1))


def _fact(message: Any) -> StreamFact:
    head = message.headers
    return StreamFact(
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
SELECT position, event_id::text, split_part(subject, '.', 4) || '.' || split_part(subject, '.', 5),
       coalesce(tenant, ''), aggregate, revision, headers::jsonb->>1, sequence
FROM chassis.outbox JOIN chassis.publication USING (position) ORDER BY position
"""
_POSITIONS = "SELECT partition, sequence, coalesce(message::text, '') FROM chassis.position WHERE stream = 'EVENTS'"


async def read_snapshot(service: Service, url: str, password: str) -> ServiceSnapshot:
    """Returns a snapshot of the database of `service`."""
    connection = await asyncpg.connect(url, password=password, timeout=5)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            states = {}
            for stored in service.states:
                for id_, revision in await connection.fetch(f"SELECT id, revision FROM {stored.table.name}"):
                    states[f"{stored.kind}/{id_}"] = revision
            positions = await connection.fetch(_POSITIONS)
            return ServiceSnapshot(
                service=service.name,
                handled_types=frozenset(service.subscriptions.fact_handlers),
                rows=[OutboxRow(*row) for row in await connection.fetch(_ROWS)],
                inbox={row[0] for row in await connection.fetch("SELECT event_id::text FROM chassis.inbox")},
                positions={row[0]: row[1] for row in positions},
                newest={row[0]: row[2] for row in positions},
                effects=[
                    EffectRow(*row)
                    for row in await connection.fetch(
                        "SELECT event_id::text, kind, state FROM chassis.job WHERE event_id IS NOT NULL "
                        "ORDER BY position"
                    )
                ],
                retrying=await connection.fetchval("SELECT count(*) FROM chassis.parked"),
                states=states,
                kinds=frozenset(stored.kind for stored in service.states),
            )
    finally:
        await connection.close()
