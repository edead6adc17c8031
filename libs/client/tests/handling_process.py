"""A service that handles events until it is killed: `handling_process.py FORM CREDENTIALS TYPE DATABASE_URL SCHEMA`.

Each event becomes a row of `effects` in the transaction that records it as handled. FORM: handlers or batches.
The password of the database comes on standard input.
"""

import asyncio
import sys
from typing import Any

import asyncpg
from paybill_client import Fact, Subscriber, once
from paybill_client.postgres import PostgresInbox
from paybill_contracts.event import Event, latest_event
from paybill_contracts.schemas import published_events

INSERT = "INSERT INTO effects (sequence) VALUES ($1)"


async def main(form: str, credentials: str, type_: str, url: str, schema: str) -> None:
    password = sys.stdin.readline().strip()
    settings = {"search_path": schema}
    published_events()  # registers all types
    event_type = latest_event(type_)
    async with asyncpg.create_pool(url, password=password, min_size=1, max_size=2, server_settings=settings) as pool:
        inbox = PostgresInbox(pool, form)
        subscriber = Subscriber(credentials)
        if form == "batches":
            async for batch in subscriber.batches(await inbox.position(), types=[event_type]):
                async with inbox.batch(batch) as (connection, facts):
                    await connection.executemany(INSERT, [(fact.sequence,) for fact in facts])
            return

        @subscriber.on(event_type)
        @once(inbox.transaction)
        async def handle(_: Event, fact: Fact, connection: Any) -> None:
            await connection.execute(INSERT, fact.sequence)

        await subscriber.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
