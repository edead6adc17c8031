"""The named points at which a process dies, or is stopped until the test lets it go on."""

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.group_commit import GroupCommit
from paybill_runtime.decisions.store import Store
from paybill_runtime.jobs.worker import Worker
from paybill_runtime.messaging.inbox import MessageProcessor
from paybill_runtime.messaging.relay import Relay

from faults import planting

REACHED = "PAYBILL_FAULTS_REACHED"
"""Names the file to which a process adds a line when it gets to its point."""

Act = Callable[[], None]
_ON_ITS_WAY_S = 0.0007
"""Into a statement that takes PostgreSQL a millisecond or two."""
_SIGNALS = {"die": signal.SIGKILL, "stop": signal.SIGSTOP}


def _before(owner: type, name: str, act: Act) -> None:
    async def reached(*_: Any, **__: Any) -> None:
        act()

    planting.before(owner, name, reached)


def _after(owner: type, name: str, act: Act) -> None:
    async def reached(_: Any, outcome: Any) -> Any:
        act()
        return outcome

    planting.after(owner, name, reached)


def _decided(owner: type, name: str, act: Act) -> None:
    async def reached(*_: Any, **__: Any) -> None:
        act()

    planting.inside((owner, name), (Store, "write"), reached)


def _being_written(owner: type, name: str, act: Act) -> None:
    async def reached(*_: Any, **__: Any) -> None:
        asyncio.get_running_loop().call_later(_ON_ITS_WAY_S, act)

    planting.inside((owner, name), (Store, "write"), reached)


def _when_leases_changed(act: Act) -> None:
    async def reached(leases: Leases, held: dict[str, int]) -> dict[str, int]:
        if held != leases.held:
            act()
        return held

    planting.after(Leases, "_round", reached)


def _when_there_is_something_to_mark(act: Act) -> None:
    async def reached(_: Relay, stored: Any, *__: Any) -> None:
        if stored:
            act()

    planting.before(Relay, "_mark", reached)


POINTS: dict[str, Callable[[Act], None]] = {
    # A decision is in PostgreSQL, and nobody was told: neither who asked nor the relay.
    "after_commit_before_answer": partial(_after, GroupCommit, "_once"),
    "after_commit_before_publish": partial(_before, Relay, "_publish"),
    "after_publish_before_mark": _when_there_is_something_to_mark,
    # The outside world was changed, and nothing of ours says so.
    "after_effect_before_outcome": partial(_before, Worker, "_commit"),
    # Messages are here, no transaction has begun.
    "batch_in_hand": partial(_before, MessageProcessor, "batch"),
    # Everything is decided and nothing written; or the statement that writes it is on its way, with an unknown outcome.
    "inside_a_batch": partial(_decided, MessageProcessor, "_commit"),
    "while_a_batch_is_written": partial(_being_written, MessageProcessor, "_commit"),
    # There is no acknowledgement in this design (decision 0006). What follows the commit is that the reader's position
    # counts in memory: this is where others have "after commit before ack".
    "after_commit_before_position_counts": partial(_after, MessageProcessor, "_commit"),
    "inside_a_decision": partial(_decided, GroupCommit, "_once"),
    "while_a_decision_is_written": partial(_being_written, GroupCommit, "_once"),
    # PostgreSQL says that the leases are ours, or not ours any more, and this process does not know it yet.
    "while_a_lease_changes_hands": _when_leases_changed,
    "while_leases_are_given_back": partial(_after, Leases, "give_back"),
}


def arm(name: str, occurrence: int, how: str) -> None:
    """When this process gets to the point `name` for the `occurrence`th time, let it `die` or `stop` there."""
    left = occurrence

    def act() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            _note(f"{name} {how} {os.getpid()}")
            os.kill(os.getpid(), _SIGNALS[how])

    POINTS[name](act)


def _note(line: str) -> None:
    path = os.environ.get(REACHED)
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)
