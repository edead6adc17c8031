"""A subscriber is killed again and again while it handles events: none is lost, none is handled twice, order holds.

CONTRIBUTING.md describes the long form, on a running stack.
"""

import asyncio
import faulthandler
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import clean_environment
import pytest
from paybill_client.postgres import TABLES
from sources_of_events import RunningStack, TestServers

EVENTS = int(os.environ.get("PAYBILL_TEST_CLIENT_EVENTS", "600"))
KILLS = int(os.environ.get("PAYBILL_TEST_CLIENT_KILLS", "2"))
SEED = int(os.environ.get("PAYBILL_TEST_CLIENT_SEED", "0")) or random.randrange(1, 1_000_000)
STACK = os.environ.get("PAYBILL_TEST_CLIENT_STACK", "")
WITHIN_S = 60
"""Time without any progress after which the test fails; a killed handler's event comes again after 5 s."""
PROCESS = Path(__file__).with_name("handling_process.py")


@pytest.fixture
def source(request, tmp_path) -> TestServers | RunningStack:
    """The servers of the tests, or the running stack whose data directory PAYBILL_TEST_CLIENT_STACK names."""
    if STACK:
        return RunningStack(Path(STACK), tmp_path)
    return TestServers(request.getfixturevalue("nats"), request.getfixturevalue("create_subscriber"))


@pytest.mark.e2e
@pytest.mark.parametrize("form", ["handlers", "batches"])
async def test_a_killed_subscriber_loses_no_event_and_handles_none_twice(
    form, source, postgres, pool, tmp_path
) -> None:
    python = clean_environment.make(tmp_path / "environment", "paybill-client", "postgres")
    schema = await pool.fetchval("SELECT current_schema()")
    await pool.execute(TABLES)
    await pool.execute("CREATE TABLE effects (place serial, sequence bigint)")
    credentials = await source.create_subscriber()
    arguments = (python, form, credentials, source.type, postgres.url("postgres", "postgres"), schema)
    password = postgres.password("postgres")
    earlier = len(await source.log())
    # Progress is watched below; the limit of pytest would end a long form.
    faulthandler.cancel_dump_traceback_later()
    publishing = asyncio.create_task(source.publish(EVENTS))
    began = time.monotonic()

    for count in sorted(random.Random(SEED).sample(range(EVENTS), KILLS)):
        async with _process(*arguments, password=password):
            await _until_handled(pool, earlier + count)
    async with _process(*arguments, password=password):
        await publishing
        await _until_handled(pool, earlier + EVENTS)
        await asyncio.sleep(1)  # an event that is handled twice would come now

    handled = [row["sequence"] for row in await pool.fetch("SELECT sequence FROM effects ORDER BY place")]
    elapsed_s = time.monotonic() - began
    print(f"{form}: {EVENTS} events, {KILLS} kills, {elapsed_s:.0f} s, PAYBILL_TEST_CLIENT_SEED={SEED}")  # noqa: T201  # the record
    assert handled == await source.log()
    assert len(handled) == earlier + EVENTS


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


async def _until_handled(pool: asyncpg.Pool, count: int) -> None:
    """Returns once `count` events are handled; fails when none was handled for a while."""
    handled, progress = 0, time.monotonic()
    while handled < count:
        found = await pool.fetchval("SELECT count(*) FROM effects")
        if found > handled:
            handled, progress = found, time.monotonic()
        assert time.monotonic() - progress < WITHIN_S, f"{handled} of {count} events are handled"
        await asyncio.sleep(0.02)
