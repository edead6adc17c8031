"""A hop without Paybill's runtime: the minimum of work that still loses no message.

It uses nats-py directly with one open pull request, one set-based statement for each batch (inbox, state and outbox),
and an atomic batch to publish (ADR-50 of NATS). It validates and traces nothing, and runs as one process: it has no
leases, no retry queue and no schemas.
"""

import asyncio
import json
import uuid
from collections import deque
from typing import Any

import asyncpg
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from paybill_bench.access import INPUT_SUBJECT, PEER_CONSUMER, from_command_line, output_subject
from paybill_bench.peers import outbox
from paybill_bench.peers.outbox import OutboxRelay

BATCH = 256
EXPIRES_NS = 30 * 10**9

TABLES = """
CREATE TABLE inbox (id uuid PRIMARY KEY);
CREATE TABLE usage (tenant_id text PRIMARY KEY, revision bigint NOT NULL, quantity bigint NOT NULL);
"""
# Quantities of one tenant are summed before its state is updated: a statement may change a row only once.
HOP = """
WITH received AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::uuid[], $5::text[], $6::bytea[])
    WITH ORDINALITY AS n (id, tenant_id, quantity, answer, subject, payload, position)
), fresh AS (
    INSERT INTO inbox SELECT id FROM received ON CONFLICT DO NOTHING RETURNING id
), folded AS (
    INSERT INTO usage AS u
    SELECT tenant_id, count(*), sum(quantity) FROM received JOIN fresh USING (id) GROUP BY tenant_id ORDER BY tenant_id
    ON CONFLICT (tenant_id) DO UPDATE
    SET revision = u.revision + excluded.revision, quantity = u.quantity + excluded.quantity
)
INSERT INTO outbox (id, cause, tenant_id, subject, payload)
SELECT answer, id, tenant_id, subject, payload FROM received JOIN fresh USING (id) ORDER BY position
"""


class Bare:
    """The hop: consumes messages; a relay publishes the outbox."""

    def __init__(self, client: Client, pool: Any, relay: OutboxRelay) -> None:
        self._client = client
        self._pool = pool
        self._relay = relay
        self._messages: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        self._requested = 0

    async def consume(self) -> None:
        """Handles each batch of messages in one statement, then acknowledges the last."""
        jetstream = self._client.jetstream()
        await jetstream.add_consumer(
            "EVENTS",
            ConsumerConfig(
                durable_name=PEER_CONSUMER, name=PEER_CONSUMER, ack_policy=AckPolicy.ALL, filter_subject=INPUT_SUBJECT
            ),
        )
        inbox = self._client.new_inbox()
        await self._client.subscribe(inbox, cb=self._on_message)
        while True:
            if self._requested <= BATCH // 2:
                self._requested += BATCH
                request = json.dumps({"batch": BATCH, "expires": EXPIRES_NS}).encode()
                await self._client.publish(f"$JS.API.CONSUMER.MSG.NEXT.EVENTS.{PEER_CONSUMER}", request, reply=inbox)
            self._arrived.clear()
            if not self._messages:
                await self._arrived.wait()
                continue
            messages = [self._messages.popleft() for _ in range(min(len(self._messages), BATCH))]
            await self._handle(messages)
            await messages[-1].ack()

    async def _on_message(self, message: Msg) -> None:
        if not message.reply:  # an expired pull request
            self._requested = 0
        else:
            self._requested -= 1
            self._messages.append(message)
        self._arrived.set()

    async def _handle(self, messages: list[Msg]) -> None:
        bodies = [orjson.loads(message.data) for message in messages]
        async with self._pool.acquire() as connection:
            await connection.execute(
                HOP,
                [message.headers["ce-id"] for message in messages if message.headers],
                [body["tenant_id"] for body in bodies],
                [body["quantity"] for body in bodies],
                [uuid.uuid4() for _ in messages],
                [output_subject(message.subject) for message in messages],
                [message.data for message in messages],
            )
        self._relay.wake()


def _headers(row: Any) -> dict[str, str]:
    id_ = str(row["id"])
    return {
        "Nats-Msg-Id": id_,
        "ce-id": id_,
        "ce-type": "tenant.hop_noted",
        "pb-cause": str(row["cause"]),
        "pb-tenant": row["tenant_id"],
    }


async def _main() -> None:
    access = from_command_line()
    pool = await asyncpg.create_pool(access.database_url, password=access.database_password, min_size=2, max_size=4)
    await pool.execute(TABLES + outbox.TABLE)
    client = await outbox.connect_nats(access)
    relay = outbox.OutboxRelay(client, pool, _headers)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Bare(client, pool, relay).consume())
        tasks.create_task(relay.run())


if __name__ == "__main__":
    asyncio.run(_main())
