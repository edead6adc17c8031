"""Memory of a replay does not grow with the number of aggregates, and its second process may end at any time."""

import asyncio
import json
import os
import signal
import sys
import tracemalloc
from pathlib import Path

import pytest
from paybill_contracts.envelope import Origin
from paybill_contracts.tenant import OfferingNoted
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.group_commit import Decision
from paybill_runtime.replay.process import PARALLEL_FROM
from paybill_runtime.replay.verify import replay
from paybill_runtime.settings import read_secret
from paybill_runtime.testing import until
from paybill_tenant.app import service
from paybill_tenant.tables import SIGNUP_OPTIONS

FEW, MANY = 4_000, 20_000
MAX_GROWTH_BYTES = 500 * (MANY - FEW)
"""A page of rows and its messages have about 4 MB, and garbage in cycles differs by as much. Keeping the states took
12,000 bytes for each."""
_GROUP = 500


async def _record(served, numbers: range) -> None:
    """Records one fact of each of these aggregates, and waits until all are published."""

    def decide(unit, _at) -> None:
        for number in group:
            event = OfferingNoted(offering=f"option-{number}", keys=(f"eu-{number}",), source_hash="e" * 64)
            unit.record(SIGNUP_OPTIONS, f"option-{number}", [event])

    origin = Origin("test", "test", "service:tenant", "")
    for start in range(numbers.start, numbers.stop, _GROUP):
        group = range(start, min(start + _GROUP, numbers.stop))
        keys = [SIGNUP_OPTIONS.key(f"option-{number}") for number in group]
        await served.running.group_commit.decide(Decision(origin, decide, writes=keys))

    async def published() -> bool:
        return (await served.client.get("/v1/operations")).json()["outbox_waiting"] == 0

    await until(published, timeout_s=120)


async def _largest_bytes(served, facts: int) -> int:
    """Returns the most memory that a replay of this many facts allocates at a time."""
    settings = served.running.settings
    database = Database(settings.database_url, read_secret(settings.database_password_file), "replay")
    tracemalloc.start()
    try:
        report = await replay(service(), settings, database)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        await database.close()
        assert (report.equal, report.facts, report.aggregates) == (
            True,
            facts + 2,
            facts + 1,
        )  # and the policy, and a key without a state


@pytest.mark.e2e
async def test_five_times_the_aggregates_take_no_more_memory(start) -> None:
    served = await start(service())
    await _record(served, range(FEW))
    few = await _largest_bytes(served, FEW)
    await _record(served, range(FEW, MANY))

    many = await _largest_bytes(served, MANY)

    assert many - few < MAX_GROWTH_BYTES


@pytest.mark.e2e
@pytest.mark.parametrize("killed", [False, True], ids=["both", "the second is killed"])
async def test_a_replay_in_two_processes_has_the_result_of_one(start, killed) -> None:
    served = await start(service())
    await _record(served, range(PARALLEL_FROM + 1))
    settings = served.running.settings
    fields = ("database_url", "database_password_file", "nats_url", "nats_user", "nats_password_file", "identity_dir")
    access = {"tenant": {name: str(getattr(settings, name)) for name in fields}}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "paybill_runtime.replay", "tenant"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    running = asyncio.create_task(child.communicate(json.dumps(access).encode()))

    async def forked() -> list[str]:
        return children.read_text().split()

    [second] = await until(forked, timeout_s=60)
    if killed:
        os.kill(int(second), signal.SIGKILL)
    output, _ = await running

    report = json.loads(output)
    assert (child.returncode, report["equal"]) == (0, True)
    assert (report["facts"], report["aggregates"]) == (PARALLEL_FROM + 3, PARALLEL_FROM + 2)  # and those of the start
