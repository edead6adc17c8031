"""Each event has its effect once: the inbox in PostgreSQL, and a transaction of the caller's own storage."""

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest
from paybill_client import Fact, Subscriber, once
from paybill_client.postgres import PostgresInbox
from paybill_contracts.errors import RetryLaterError
from paybill_contracts.tenant import TenantCancelled
from paybill_embedded.postgres import PostgresServer
from paybill_runtime.testing import until


@pytest.fixture
async def inbox(pool) -> PostgresInbox:
    await pool.execute("CREATE TABLE effects (place serial, reason text)")
    inbox = PostgresInbox(pool, "crm")
    await inbox.create_tables()
    await inbox.create_tables()  # a second time changes nothing
    return inbox


async def _effects(pool) -> list[int]:
    return [int(row["reason"]) for row in await pool.fetch("SELECT reason FROM effects ORDER BY place")]


async def _until_effects(pool, count: int) -> list[int]:
    async def enough() -> bool:
        return len(await _effects(pool)) >= count

    await until(enough)
    return await _effects(pool)


async def test_a_copy_of_an_event_has_no_second_effect(create_subscriber, run, publish, cancelled, pool, inbox) -> None:
    subscriber = Subscriber(await create_subscriber())

    @subscriber.on(TenantCancelled)
    @once(inbox.transaction)
    async def handle(event: TenantCancelled, _: Fact, connection) -> None:
        await connection.execute("INSERT INTO effects (reason) VALUES ($1)", event.reason)

    run(subscriber)
    await publish(cancelled(0), cancelled(1), copies=3)
    await publish(cancelled(2))

    assert await _until_effects(pool, 3) == [0, 1, 2]


async def test_a_failed_handler_leaves_neither_its_changes_nor_a_mark(
    create_subscriber, run, publish, cancelled, pool, inbox
) -> None:
    subscriber = Subscriber(await create_subscriber())
    tries: list[str] = []

    @subscriber.on(TenantCancelled)
    @once(inbox.transaction)
    async def handle(event: TenantCancelled, _: Fact, connection) -> None:
        tries.append(event.reason)
        await connection.execute("INSERT INTO effects (reason) VALUES ($1)", event.reason)
        if len(tries) == 1:
            raise ValueError("it fails behind its changes")

    run(subscriber)
    await publish(cancelled(0), cancelled(1))

    assert await _until_effects(pool, 2) == [0, 1]
    assert tries == ["0", "0", "1"]


async def test_a_lost_database_is_waited_for_and_makes_no_dead_letter(
    create_subscriber, run, publish, cancelled, pool, inbox
) -> None:
    subscriber = Subscriber(await create_subscriber(), tries=1)
    tries: list[str] = []

    @subscriber.on(TenantCancelled)
    @once(inbox.transaction)
    async def handle(event: TenantCancelled, _: Fact, connection) -> None:
        tries.append(event.reason)
        if len(tries) == 1:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        await connection.execute("INSERT INTO effects (reason) VALUES ($1)", event.reason)

    run(subscriber)
    await publish(cancelled(0), cancelled(1))

    assert await _until_effects(pool, 2) == [0, 1]
    assert tries == ["0", "0", "1"]


@pytest.mark.e2e
async def test_a_stopped_database_is_waited_for(create_subscriber, run, publish, cancelled, tmp_path) -> None:
    subscriber = Subscriber(await create_subscriber(), tries=1)
    with PostgresServer(tmp_path / "other") as server:
        password = server.password("postgres")
        async with asyncpg.create_pool(server.url("postgres", "postgres"), password=password, min_size=1) as pool:
            await pool.execute("CREATE TABLE effects (place serial, reason text)")
            inbox = PostgresInbox(pool, "crm")
            await inbox.create_tables()

            @subscriber.on(TenantCancelled)
            @once(inbox.transaction)
            async def handle(event: TenantCancelled, _: Fact, connection) -> None:
                await connection.execute("INSERT INTO effects (reason) VALUES ($1)", event.reason)

            running = run(subscriber)
            await publish(cancelled(0))
            assert await _until_effects(pool, 1) == [0]
            await asyncio.to_thread(server.stop)
            await publish(cancelled(1), cancelled(2))
            await asyncio.sleep(1.5)  # several tries fail
            await asyncio.to_thread(server.start)

            assert await _until_effects(pool, 3) == [0, 1, 2]
            running.cancel()  # before its pool is closed
            await asyncio.wait({running})


async def test_a_closed_pool_counts_as_an_outage(postgres, publish, log, cancelled) -> None:
    await publish(cancelled(0))
    [fact] = await log.facts()
    async with asyncpg.create_pool(
        postgres.url("postgres", "postgres"), password=postgres.password("postgres")
    ) as closed:
        pass

    with pytest.raises(RetryLaterError, match="PostgreSQL is not available"):
        async with PostgresInbox(closed, "crm").transaction(fact):
            pass


async def test_an_error_of_a_statement_is_a_failure_of_the_event(pool, inbox, publish, log, cancelled) -> None:
    await publish(cancelled(0))
    [fact] = await log.facts()

    with pytest.raises(Exception, match="division by zero"):
        async with inbox.transaction(fact) as connection:
            await connection.execute("SELECT 1 / 0")


async def test_two_subscribers_of_one_database_have_inboxes_of_their_own(pool, inbox, publish, log, cancelled) -> None:
    await publish(cancelled(0))
    [fact] = await log.facts()
    async with inbox.transaction(fact) as connection:
        assert connection is not None

    async with inbox.transaction(fact) as connection:
        assert connection is None
    async with PostgresInbox(pool, "warehouse").transaction(fact) as connection:
        assert connection is not None


async def test_any_storage_can_record_the_ids(create_subscriber, run, publish, cancelled) -> None:
    committed: dict[str, str] = {}

    @asynccontextmanager
    async def transaction(fact: Fact):
        changes: dict[str, str] = {}
        yield None if fact.id in committed else changes
        committed.update(changes)

    subscriber = Subscriber(await create_subscriber())
    calls: list[str] = []

    @subscriber.on(TenantCancelled)
    @once(transaction)
    async def handle(event: TenantCancelled, fact: Fact, changes: dict[str, str]) -> None:
        calls.append(event.reason)
        changes[fact.id] = event.reason
        if len(calls) == 1:
            raise ValueError("nothing is committed")

    run(subscriber)
    await publish(cancelled(0), cancelled(1), copies=2)

    async def done() -> bool:
        return len(committed) == 2

    await until(done)
    assert calls == ["0", "0", "1"]
    assert list(committed.values()) == ["0", "1"]
