"""Outbox of the bare peers: a relay that publishes pending rows after every commit, in atomic batches when many."""

import asyncio
import json
import secrets
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client

from paybill_bench.access import ServerAccess

ROUND = 512
ATOMIC_FROM = 32

TABLE = """
CREATE TABLE outbox (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid NOT NULL, cause uuid NOT NULL,
    tenant_id text NOT NULL, subject text NOT NULL, payload bytea NOT NULL, sequence bigint
);
CREATE INDEX outbox_waiting ON outbox (position) WHERE sequence IS NULL;
"""
PENDING = "SELECT * FROM outbox WHERE sequence IS NULL ORDER BY position LIMIT $1"
MARK = (
    "UPDATE outbox AS o SET sequence = n.sequence FROM unnest($1::bigint[], $2::bigint[]) AS n (position, sequence) "
    "WHERE o.position = n.position"
)


async def connect_nats(access: ServerAccess) -> Client:
    """Returns a connection to the log."""
    client = Client()
    await client.connect(
        access.nats_url,
        user=access.nats_user,
        password=access.nats_password,
        inbox_prefix=f"_INBOX_{access.nats_user}".encode(),
    )
    return client


class OutboxRelay:
    """Publishes the table `outbox`. headers: returns the headers of a row."""

    def __init__(self, client: Client, pool: Any, headers: Callable[[Any], dict[str, str]]) -> None:
        self._client = client
        self._pool = pool
        self._headers = headers
        self._committed = asyncio.Event()

    def wake(self) -> None:
        """Signals that rows were committed."""
        self._committed.set()

    async def run(self) -> None:
        """Publishes pending rows after every commit."""
        while True:
            self._committed.clear()
            async with self._pool.acquire() as connection:
                rows = await connection.fetch(PENDING, ROUND)
                if rows:
                    sequences = await self._publish(rows)
                    await connection.execute(MARK, [row["position"] for row in rows], sequences)
            if len(rows) < ROUND:
                await self._committed.wait()

    async def _publish(self, rows: list[Any]) -> list[int]:
        if len(rows) < ATOMIC_FROM:
            return await self._publish_window(rows)
        batch = secrets.token_hex(12)
        for index, row in enumerate(rows[:-1], start=1):
            headers = self._headers(row) | {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(index)}
            await self._client.publish(row["subject"], row["payload"], headers=headers)
        last = rows[-1]
        headers = self._headers(last) | {
            "Nats-Batch-Id": batch,
            "Nats-Batch-Sequence": str(len(rows)),
            "Nats-Batch-Commit": "1",
        }
        response = json.loads((await self._client.request(last["subject"], last["payload"], 5, headers=headers)).data)
        if "error" in response:  # a row that was published before a crash: one duplicate rejects the whole batch
            return await self._publish_window(rows)
        first = int(response["seq"]) - len(rows) + 1
        return list(range(first, first + len(rows)))

    async def _publish_window(self, rows: list[Any]) -> list[int]:
        jetstream = self._client.jetstream()
        acks = await asyncio.gather(
            *(jetstream.publish(row["subject"], row["payload"], headers=self._headers(row)) for row in rows)
        )
        return [ack.seq for ack in acks]
