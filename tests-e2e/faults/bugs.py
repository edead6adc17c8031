"""Injected bugs: each breaks one guarantee of the runtime, and the invariant checks must detect it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paybill_contracts.envelope import headers_of, subject_of
from paybill_contracts.event import encode
from paybill_contracts.signatures import SIGNATURE_HEADER, leaf_of
from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.store import Store
from paybill_runtime.decisions.unit_of_work import UnitOfWork
from paybill_runtime.jobs import worker
from paybill_runtime.jobs.worker import Worker
from paybill_runtime.messaging import relay
from paybill_runtime.messaging.processor import MessageProcessor
from paybill_runtime.messaging.relay import Relay
from sqlalchemy import text

from faults import injection

LATE_CLEAR_S = 0.02
NO_POLLING_S = 60.0
"""Poll interval of loops in tests of wake-ups."""

_ADVANCE = text(
    "UPDATE chassis.position SET sequence = :sequence WHERE stream = :stream AND partition = ANY(:partitions)"
)
_DELETE_FROM_INBOX = text("DELETE FROM chassis.inbox WHERE event_id = ANY(:ids)")
_NO_EPOCH = text("UPDATE chassis.lease SET epoch = 0 WHERE owner = :owner")


def position_before_decisions() -> None:
    """Ack before commit: the consumer's position is committed first, and its decisions after it."""

    async def commit_position(
        processor: MessageProcessor, items: Sequence[Any], _: Mapping[str, int], positions: dict[int, int], *__: Any
    ) -> None:
        upto = items[-1].sequence
        values = {"stream": items[0].stream, "partitions": list(positions), "sequence": upto}
        async with processor.database.transaction() as connection:
            await connection.execute(_ADVANCE, values)
        positions |= dict.fromkeys(positions, upto)  # so that the batch finds the position that it expects

    injection.before(MessageProcessor, "_commit", commit_position, takes=("items", "positions"))


def inbox_skipped() -> None:
    """Deletes handled messages from the inbox."""

    async def delete_from_inbox(processor: MessageProcessor, items: Sequence[Any], *_: Any) -> None:
        async with processor.database.transaction() as connection:
            await connection.execute(_DELETE_FROM_INBOX, {"ids": [item.id for item in items]})

    injection.before(MessageProcessor, "_commit", delete_from_inbox, takes=("items",))


def unfenced_lease() -> None:
    """Keeps the epoch constant, so that every former owner of the lease passes the fencing check."""

    async def reset_epoch(leases: Leases, held: dict[str, int]) -> dict[str, int]:
        async with leases._database.transaction() as connection:
            await connection.execute(_NO_EPOCH, {"owner": leases._owner})
        return dict.fromkeys(held, 0)

    injection.after(Leases, "_round", reset_epoch)


def publish_before_commit() -> None:
    """Publishes facts before the transaction that decides them is committed."""
    relays: list[Relay] = []

    async def store_relay(relay: Relay) -> None:
        relays[:] = [relay]

    async def publish(store: Store, _: Any, unit: UnitOfWork, *__: Any, **___: Any) -> None:
        for fact in unit.facts if relays else ():  # the key is announced before the relay runs
            bus = relays[0]._broker.client.jetstream()
            subject, headers, payload = subject_of(fact.event), headers_of(fact), encode(fact.event)
            [signature] = store._sign([leaf_of(subject, headers, payload)])
            await bus.publish(subject, payload, headers=headers | {SIGNATURE_HEADER: signature})

    injection.before(Relay, "run", store_relay)
    injection.before(Store, "write", publish, takes=("connection", "unit"))


def lost_wake_up() -> None:
    """Clears the relay's wake-up event after an empty read, not before it.

    A delay between the two imitates a slow machine.
    """

    async def clear(relay: Relay, more: bool) -> bool:  # noqa: FBT001  # the result of `_round`
        await asyncio.sleep(LATE_CLEAR_S)
        relay._wake.clear()
        return more

    injection.after(Relay, "_round", clear)


def lost_job_wake_up() -> None:
    """Clears the worker's wake-up event after a claim, not before it."""

    async def clear(jobs: Worker, delay_s: float) -> float:
        await asyncio.sleep(LATE_CLEAR_S)
        jobs._wake.clear()
        return delay_s

    injection.after(Worker, "_start_due", clear)


BUGS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        position_before_decisions,
        inbox_skipped,
        unfenced_lease,
        publish_before_commit,
        lost_wake_up,
        lost_job_wake_up,
    )
}


def disable_polling() -> None:
    """Disables polling, since a poll would repair every lost wake-up."""
    for module, name in ((relay, "CHECK_S"), (relay, "POLL_S"), (worker, "POLL_S")):
        if not hasattr(module, name):
            raise injection.MissingTargetError(f"{module.__name__} has no {name}")
        vars(module)[name] = NO_POLLING_S
