"""Each failpoint is harmless, and each injected bug is detected: small scenarios of a few seconds each."""

import asyncio
import signal
import time

import pytest
from faults.bugs import BUGS
from faults.failpoints import FAILPOINTS
from faults.fork_server import ForkServer
from faults.probe_testbed import ProbeTestbed, wait_for_state

NUMBERS = 8
WITHIN_S = 20
"""Time to finish correct work on a loaded machine."""
BURSTS = 10
WOKEN_WITHIN_S = 4
"""Much less than the poll interval of a minute in these tests."""


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory):
    with ForkServer(tmp_path_factory.mktemp("probes")) as made:
        yield made


@pytest.fixture
async def probe_testbed(fork_server, nats, postgres, databases, tmp_path):
    made = await ProbeTestbed.create(fork_server, nats, postgres, databases, tmp_path)
    yield made
    await made.close()


@pytest.mark.parametrize("point", FAILPOINTS)
async def test_dying_at_a_failpoint_loses_nothing_and_repeats_nothing(probe_testbed, point) -> None:
    await probe_testbed.publish(NUMBERS)
    # A single process takes its leases once, and releases them once.
    doomed = probe_testbed.start("--die-at", f"{point}:{1 if 'lease' in point else 2}")
    if point == "while_leases_are_released":
        assert await probe_testbed.violations(WITHIN_S) == []
        doomed.signal(signal.SIGTERM)
    deadline = time.monotonic() + WITHIN_S
    while doomed.state and time.monotonic() < deadline:
        await probe_testbed.publish(1)
        await asyncio.sleep(0.05)  # a process that starts slowly would leave thousands to its successor
    assert probe_testbed.reached == [point]
    probe_testbed.start()

    assert await probe_testbed.violations(WITHIN_S) == []


@pytest.mark.parametrize("point", ["before_a_batch", "after_commit_before_publish", "after_publish_before_mark"])
async def test_a_process_that_was_paused_longer_than_its_leases_does_no_harm(probe_testbed, point) -> None:
    await probe_testbed.publish(NUMBERS)
    paused = probe_testbed.start("--stop-at", f"{point}:1")
    await wait_for_state(paused, ["T"])
    probe_testbed.start()
    await probe_testbed.publish(1)
    assert await probe_testbed.violations(WITHIN_S) == []
    paused.signal(signal.SIGCONT)
    await probe_testbed.publish(1)

    assert await probe_testbed.violations(WITHIN_S) == []
    assert paused.state


async def _killed_inside_a_batch(probe_testbed, *bug_arguments: str) -> list[str]:
    """The uncommitted batch of a killed process is decided once, by the next process."""
    await probe_testbed.publish(NUMBERS)
    await wait_for_state(probe_testbed.start("--die-at", "inside_a_batch:1", *bug_arguments), [""])
    probe_testbed.start(*bug_arguments)
    return await probe_testbed.violations(WITHIN_S)


async def _published_twice(probe_testbed, *bug_arguments: str) -> list[str]:
    """The stream may hold a fact twice: a publisher missed the acknowledgement, or an operator's tool repeated it."""
    await probe_testbed.publish(NUMBERS)
    probe_testbed.start(*bug_arguments)
    assert await probe_testbed.violations(WITHIN_S) == []
    await probe_testbed.publish_again(copy=1)
    await probe_testbed.publish(1)
    return await probe_testbed.violations(WITHIN_S, copies=True)


async def _paused_before_the_outcome(probe_testbed, *bug_arguments: str) -> list[str]:
    """A process pauses between a call and its record; another does the work; then the first resumes and records."""
    await probe_testbed.publish(NUMBERS)
    paused = probe_testbed.start("--stop-at", "after_effect_before_outcome:1", *bug_arguments)
    await wait_for_state(paused, ["T"])
    probe_testbed.start(*bug_arguments)
    wrong = await probe_testbed.violations(WITHIN_S)
    paused.signal(signal.SIGCONT)
    await asyncio.sleep(1)
    return wrong or await probe_testbed.violations(WITHIN_S)


async def _bursts_without_polling(probe_testbed, *bug_arguments: str) -> list[str]:
    """All work finishes soon after every burst, although no loop polls.

    A lost wake-up loses no fact: the next commit or poll repairs it (10 s in the relay, 30 s in the worker). It only
    costs time, so the test bounds the time between bursts, with a poll interval of a minute. A check at the end of the
    run, or with polling, would not detect it.
    """
    probe_testbed.start("--no-polling", *bug_arguments)
    for _ in range(BURSTS):
        await probe_testbed.publish(1)
        wrong = await probe_testbed.violations(WOKEN_WITHIN_S)
        if wrong:
            return wrong
    return []


SCENARIOS = {
    "position_before_decisions": (_killed_inside_a_batch, "never handled"),
    "inbox_skipped": (_published_twice, "noted"),
    "unfenced_lease": (_paused_before_the_outcome, "settled"),
    "publish_before_commit": (_killed_inside_a_batch, "never decided"),
    "lost_wake_up": (_bursts_without_polling, "still in the outbox"),
    "lost_job_wake_up": (_bursts_without_polling, "is pending"),
}


def test_every_injected_bug_has_a_scenario() -> None:
    assert SCENARIOS.keys() == BUGS.keys()


@pytest.mark.parametrize("bug", SCENARIOS)
async def test_an_injected_bug_violates_an_invariant(probe_testbed, bug) -> None:
    scenario, expected = SCENARIOS[bug]

    wrong = await scenario(probe_testbed, "--bug", bug)

    assert [each for each in wrong if expected in each], wrong


@pytest.mark.parametrize("scenario", dict.fromkeys(scenario for scenario, _ in SCENARIOS.values()))
async def test_without_the_bug_the_same_scenario_violates_nothing(probe_testbed, scenario) -> None:
    assert await scenario(probe_testbed) == []
