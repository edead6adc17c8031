"""Copies of API keys: each process follows in the log the facts of those that the tenant service created.

The processes of the agent gateway follow those of agents, too; no other service accepts an agent's key.

The facts have an ordered consumer of their own, in every process: a revocation waits for no backlog, for no dead letter
and for no lease. The copies are also in PostgreSQL, so that a process accepts keys while NATS is unavailable.
"""

import asyncio
import logging
from collections.abc import Sequence

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from paybill_contracts.agents import AgentEnded, AgentRegistered
from paybill_contracts.api_keys import KeyCreated, KeyRevoked, KeyRole
from paybill_contracts.envelope import EVENTS_ROOT, read_fact
from paybill_contracts.event import Event, partition_of
from sqlalchemy import text

from paybill_runtime import clock
from paybill_runtime.database.pool import Database
from paybill_runtime.database.statement import Statement
from paybill_runtime.errors import DatabaseUnavailableError, reason
from paybill_runtime.http.auth import AGENT, ApiKey, KeyRing
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS

log = logging.getLogger(__name__)

PAUSE_S = 0.2
FACTS = (KeyCreated, KeyRevoked)
AGENT_FACTS = (AgentRegistered, AgentEnded)
ACT = "agent-gateway:act"
"""The only scope of an agent's key."""
_FILTERS = [f"{EVENTS_ROOT}.{partition_of(None)}.{event.TYPE}.*" for event in FACTS]
_AGENT_FILTERS = [f"{EVENTS_ROOT}.*.{event.TYPE}.*" for event in AGENT_FACTS]
_COPIES = text("SELECT sequence, key, revoked FROM chassis.api_key")


def key_facts(*, of_agents: bool) -> tuple[type[Event], ...]:
    """Returns the facts that the processes of a service follow. of_agents: it accepts keys of agents."""
    return (*FACTS, *(AGENT_FACTS if of_agents else ()))


def add_copy(statement: Statement, fact: KeyCreated | AgentRegistered, sequence: int = 0) -> None:
    """Adds the copy of a new key. Idempotent: a revoked key stays revoked.

    sequence: of the fact in the stream; 0 before it is published.
    """
    values = ", ".join(map(statement.value, (fact.key_id, sequence, _key_of(fact).model_dump_json())))
    statement.add(
        f"INSERT INTO chassis.api_key AS k (id, sequence, key) VALUES ({values}) "  # noqa: S608  # only placeholders
        "ON CONFLICT (id) DO UPDATE SET sequence = greatest(k.sequence, excluded.sequence)"
    )


def revoke_copy(statement: Statement, key_id: str, sequence: int = 0) -> None:
    """Adds the revocation of a copy. sequence: as of `add_copy`."""
    at, id_ = statement.value(sequence), statement.value(key_id)
    statement.add(
        f"UPDATE chassis.api_key SET revoked = true, sequence = greatest(sequence, {at}) WHERE id = {id_}"  # noqa: S608  # as above
    )


def accept(key_ring: KeyRing, fact: KeyCreated | AgentRegistered) -> None:
    """Makes this process accept a new key."""
    key_ring.add(_key_of(fact))


def _key_of(fact: KeyCreated | AgentRegistered) -> ApiKey:
    if isinstance(fact, AgentRegistered):
        return ApiKey(
            id=fact.key_id,
            name=fact.name,
            sha256=fact.sha256,
            role=KeyRole.VIEWER,
            scopes=(ACT,),
            subject=f"{AGENT}{fact.agent_id}",
            expires_at=fact.expires_at,
            tenant_id=fact.tenant_id,
            agent_role=fact.role,
        )
    return ApiKey(
        id=fact.key_id,
        name=fact.name,
        sha256=fact.sha256,
        role=fact.role,
        scopes=fact.scopes,
        subject=fact.subject,
        expires_at=fact.expires_at,
    )


class ApiKeyCopies:
    """Keeps the copies of one process: in its key ring, and in the database of its service.

    of_agents: follows the keys of agents, too.
    """

    def __init__(self, database: Database, broker: Broker, key_ring: KeyRing, *, of_agents: bool = False) -> None:
        self._database = database
        self._broker = broker
        self._key_ring = key_ring
        self._filters = [*_FILTERS, *(_AGENT_FILTERS if of_agents else ())]
        self._consumer: OrderedConsumer | None = None
        self._next = 1

    async def load(self) -> None:
        """Accepts the keys of the database; later facts about them are read from the log."""
        async with self._database.reading() as connection:
            rows = (await connection.execute(_COPIES)).all()
        now = clock.now()
        for row in rows:
            key = ApiKey.model_validate_json(row.key)
            if row.revoked:
                self._key_ring.revoke(key.id)
            elif key.expires_at > now:
                self._key_ring.add(key)
        self._next = 1 + max((row.sequence for row in rows), default=0)

    async def run(self) -> None:
        """Follows the facts until cancelled. While PostgreSQL or NATS is unavailable it waits."""
        while True:
            try:
                await self._broker.connected.wait()
                await self._step()
            except (DatabaseUnavailableError, NatsError, JetStreamError, OSError, TimeoutError) as error:
                log.warning("the copies of API keys are not updated: %s", reason(error))
                await self._close()
                await asyncio.sleep(PAUSE_S)
            except Exception:
                await self._close()
                raise

    async def _step(self) -> None:
        if self._consumer is None:
            self._consumer = OrderedConsumer(self._broker.client, EVENTS, self._filters, self._next)
        messages = await self._broker.while_connected(self._consumer.fetch(1.0))
        if messages:
            await self._apply(messages)
            self._next = stream_sequence(messages[-1]) + 1

    async def _apply(self, messages: Sequence[Msg]) -> None:
        """Changes the key ring first: a revocation does not wait for PostgreSQL."""
        facts = [read_fact(each.subject, each.headers, each.data, stream_sequence(each)) for each in messages]
        kinds = KeyCreated | KeyRevoked | AgentRegistered | AgentEnded
        found = [(fact.event, fact.sequence) for fact in facts if isinstance(fact.event, kinds)]
        for event, _ in found:
            if isinstance(event, KeyCreated | AgentRegistered):
                accept(self._key_ring, event)
            else:
                self._key_ring.revoke(event.key_id)
        async with self._database.direct(committing=True) as connection:
            for event, sequence in found:
                statement = Statement()
                if isinstance(event, KeyCreated | AgentRegistered):
                    add_copy(statement, event, sequence)
                else:
                    revoke_copy(statement, event.key_id, sequence)
                await statement.execute(connection)

    async def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.close()
