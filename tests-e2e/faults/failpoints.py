"""Failpoints: named points at which a process dies, or stops until the test resumes it."""

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.group_commit import GroupCommit
from paybill_runtime.decisions.store import Store
from paybill_runtime.jobs.effect_runner import EffectRunner
from paybill_runtime.jobs.queue import JobQueue
from paybill_runtime.jobs.worker import Worker
from paybill_runtime.messaging.processor import MessageProcessor
from paybill_runtime.messaging.relay import Relay

from faults import injection

REACHED = "PAYBILL_TEST_FAULTS_REACHED"
"""Names the file to which a process adds a line when it reaches its failpoint."""

Act = Callable[[], None]
_INTO_WRITE_S = 0.0007
"""Delay into a statement that takes PostgreSQL a millisecond or two."""
_SIGNALS = {"die": signal.SIGKILL, "stop": signal.SIGSTOP}


def _before(owner: type, name: str, act: Act) -> None:
    async def reached(*_: Any, **__: Any) -> None:
        act()

    injection.before(owner, name, reached)


def _after(owner: type, name: str, act: Act) -> None:
    async def reached(_: Any, outcome: Any) -> Any:
        act()
        return outcome

    injection.after(owner, name, reached)


def _before_write(owner: type, name: str, act: Act) -> None:
    async def reached(*_: Any, **__: Any) -> None:
        act()

    injection.inside((owner, name), (Store, "write"), reached)


def _during_write(owner: type, name: str, act: Act) -> None:
    async def reached(*_: Any, **__: Any) -> None:
        asyncio.get_running_loop().call_later(_INTO_WRITE_S, act)

    injection.inside((owner, name), (Store, "write"), reached)


def _when_leases_changed(act: Act) -> None:
    async def reached(leases: Leases, held: dict[str, int]) -> dict[str, int]:
        if held != leases.held:
            act()
        return held

    injection.after(Leases, "_round", reached)


def _when_marking(act: Act) -> None:
    async def reached(_: Relay, stored: Any, *__: Any) -> None:
        if stored:
            act()

    injection.before(Relay, "_mark", reached)


FAILPOINTS: dict[str, Callable[[Act], None]] = {
    # A decision is committed, and neither its caller nor the relay has been notified.
    "after_commit_before_response": partial(_after, GroupCommit, "_once"),
    "after_commit_before_publish": partial(_before, Relay, "_publish"),
    "after_publish_before_mark": _when_marking,
    # An external call was made, and its outcome is not recorded.
    "after_effect_before_outcome": partial(_before, EffectRunner, "_commit"),
    # A job is claimed and has not begun; its outcome is recorded; it waits, and has given its slot back.
    "job_claimed": partial(_before, Worker, "_attempt"),
    "job_outcome_recorded": partial(_after, EffectRunner, "_commit"),
    "job_slot_returned": partial(_after, JobQueue, "later"),
    # Messages have arrived, no transaction has begun.
    "before_a_batch": partial(_before, MessageProcessor, "process"),
    # All decisions are made, none is written; or the statement that writes them is in flight, with an unknown outcome.
    "inside_a_batch": partial(_before_write, MessageProcessor, "_commit"),
    "while_a_batch_is_written": partial(_during_write, MessageProcessor, "_commit"),
    # This design has no acknowledgement (decision 0006). After the commit, the consumer's position changes in memory:
    # the counterpart of "after commit before ack" elsewhere.
    "after_commit_before_position_counts": partial(_after, MessageProcessor, "_commit"),
    "inside_a_decision": partial(_before_write, GroupCommit, "_once"),
    "while_a_decision_is_written": partial(_during_write, GroupCommit, "_once"),
    # PostgreSQL has changed the lease owners, and this process has not been notified yet.
    "while_a_lease_changes_owner": _when_leases_changed,
    "while_leases_are_released": partial(_after, Leases, "release_all"),
}


def arm(name: str, occurrence: int, how: str) -> None:
    """Makes this process `die` or `stop` when it reaches the failpoint `name` for the `occurrence`th time."""
    left = occurrence

    def act() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            _append(f"{name} {how} {os.getpid()}")
            os.kill(os.getpid(), _SIGNALS[how])

    FAILPOINTS[name](act)


def _append(line: str) -> None:
    path = os.environ.get(REACHED)
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)
