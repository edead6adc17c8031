"""A subscriber is killed again and again while it handles events: none is lost, none is handled twice, order holds.

CONTRIBUTING.md describes the long form.
"""

import asyncio
import faulthandler
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import clean_environment
import pytest
from paybill_client.postgres import TABLES
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_runtime.clock import new_id, now
from paybill_runtime.messaging.streams import connect
from paybill_runtime.telemetry import child

EVENTS = int(os.environ.get("PAYBILL_TEST_CLIENT_EVENTS", "600"))
KILLS = int(os.environ.get("PAYBILL_TEST_CLIENT_KILLS", "2"))
WITHIN_S = 60
"""Time without any progress after which the test fails; a killed handler's event comes again after 5 s."""
PROCESS = Path(__file__).with_name("handling_process.py")


@pytest.mark.e2e
@pytest.mark.parametrize("form", ["handlers", "batches"])
async def test_a_killed_subscriber_loses_no_event_and_handles_none_twice(
    form, create_subscriber, nats, cancelled, postgres, pool, tmp_path
) -> None:
    python = clean_environment.make(tmp_path / "environment", "paybill-client", "postgres")
    schema = await pool.fetchval("SELECT current_schema()")
    await pool.execute(TABLES)
    await pool.execute("CREATE TABLE effects (place serial, sequence bigint)")
    credentials = await create_subscriber(contexts=("tenant",))
    publishing = asyncio.create_task(_publish(nats, cancelled))
    url = postgres.url("postgres", "postgres")
    began = time.monotonic()
    # Progress is watched below; the limit of pytest would end a long form.
    faulthandler.cancel_dump_traceback_later()

    for kill in range(1, KILLS + 1):
        async with _process(python, form, credentials, url, schema, password=postgres.password("postgres")):
            await _until_handled(pool, EVENTS * kill // (KILLS + 1))
    async with _process(python, form, credentials, url, schema, password=postgres.password("postgres")):
        await publishing
        await _until_handled(pool, EVENTS)
        await asyncio.sleep(1)  # an event that is handled twice would come now

    handled = [row["sequence"] for row in await pool.fetch("SELECT sequence FROM effects ORDER BY place")]
    print(f"{form}: {EVENTS} events, {KILLS} kills, {time.monotonic() - began:.0f} s")  # noqa: T201  # the record
    assert handled == list(range(1, EVENTS + 1))


@asynccontextmanager
async def _process(python: Path, *arguments: object, password: str) -> AsyncIterator[None]:
    """Runs the subscriber in an environment with only the client while the block runs, then kills it."""
    pipe = asyncio.subprocess.PIPE
    command = [str(part) for part in (python, "-I", PROCESS, *arguments)]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe)
    process.stdin.write(f"{password}\n".encode())
    await process.stdin.drain()
    try:
        yield
        assert process.returncode is None
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _publish(nats, cancelled) -> None:
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    for number in range(EVENTS):
        id_, event = new_id(), cancelled(number)
        fact = Fact(event, id_, now(), number + 1, Origin(id_, id_, "service:tenant", child(None)))
        await client.jetstream().publish(subject_of(event), encode(event), headers=headers_of(fact))
    await client.close()


async def _until_handled(pool: asyncpg.Pool, count: int) -> None:
    """Returns once `count` events are handled; fails when none was handled for a while."""
    handled, progress = 0, time.monotonic()
    while handled < count:
        found = await pool.fetchval("SELECT count(*) FROM effects")
        if found > handled:
            handled, progress = found, time.monotonic()
        assert time.monotonic() - progress < WITHIN_S, f"{handled} of {count} events are handled"
        await asyncio.sleep(0.02)
