"""Planted bugs: each breaks one promise of the runtime, and the oracle has to see it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paybill_contracts.envelope import headers_of, subject_of
from paybill_contracts.event import encode
from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.store import Store
from paybill_runtime.decisions.unit_of_work import UnitOfWork
from paybill_runtime.jobs import worker
from paybill_runtime.messaging import relay
from paybill_runtime.messaging.inbox import MessageProcessor
from paybill_runtime.messaging.relay import Relay
from sqlalchemy import text

from faults import planting

FORGETFUL_S = 0.02
NO_POLLING_S = 60.0
"""How long loops that nobody wakes sleep when it is wake-ups that are tested."""

_ADVANCE = text(
    "UPDATE chassis.position SET sequence = :sequence WHERE stream = :stream AND partition = ANY(:partitions)"
)
_FORGET = text("DELETE FROM chassis.inbox WHERE event_id = ANY(:ids)")
_NO_EPOCH = text("UPDATE chassis.lease SET epoch = 0 WHERE owner = :owner")


def position_before_decisions() -> None:
    """Our form of "ack before commit": the reader's position is committed first, and its decisions after it."""

    async def early(
        handling: MessageProcessor, items: Sequence[Any], _: Mapping[str, int], positions: dict[int, int], *__: Any
    ) -> None:
        upto = items[-1].sequence
        values = {"stream": items[0].stream, "partitions": list(positions), "sequence": upto}
        async with handling.database.transaction() as connection:
            await connection.execute(_ADVANCE, values)
        positions |= dict.fromkeys(positions, upto)  # the batch insists on finding them as it believes that they are

    planting.before(MessageProcessor, "_commit", early, takes=("items", "positions"))


def inbox_skipped() -> None:
    """Nothing is remembered of what was handled before."""

    async def forget(handling: MessageProcessor, items: Sequence[Any], *_: Any) -> None:
        async with handling.database.transaction() as connection:
            await connection.execute(_FORGET, {"ids": [item.id for item in items]})

    planting.before(MessageProcessor, "_commit", forget, takes=("items",))


def unfenced_lease() -> None:
    """The epoch never rises, so that a fence lets everybody through who ever held the lease."""

    async def level(leases: Leases, held: dict[str, int]) -> dict[str, int]:
        async with leases._database.transaction() as connection:
            await connection.execute(_NO_EPOCH, {"owner": leases._owner})
        return dict.fromkeys(held, 0)

    planting.after(Leases, "_round", level)


def publish_before_commit() -> None:
    """Facts go out while the transaction that decides them can still fail."""
    relays: list[Relay] = []

    async def remember(relay: Relay) -> None:
        relays[:] = [relay]

    async def publish(_: Store, __: Any, unit: UnitOfWork, *___: Any, **____: Any) -> None:
        for fact in unit.facts:
            bus = relays[0]._broker.client.jetstream()
            await bus.publish(subject_of(fact.event), encode(fact.event), headers=headers_of(fact))

    planting.before(Relay, "run", remember)
    planting.before(Store, "write", publish, takes=("connection", "unit"))


def lost_wake_up() -> None:
    """The relay forgets a wake-up that came while it was looking: cleared after an empty read, not before it.

    The moment between the two is made as long as a slow machine makes it now and then.
    """

    async def clear(relay: Relay, more: bool) -> bool:  # noqa: FBT001  # what `_round` returns
        await asyncio.sleep(FORGETFUL_S)
        relay._wake.clear()
        return more

    planting.after(Relay, "_round", clear)


BUGS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (position_before_decisions, inbox_skipped, unfenced_lease, publish_before_commit, lost_wake_up)
}


def without_polling() -> None:
    """Let loops rely on being woken: a backstop that looks again after a moment heals every wake-up that is lost."""
    for module in (relay, worker):
        if not hasattr(module, "POLL_S"):
            raise planting.NothingToWrapError(f"{module.__name__} has no POLL_S")
        vars(module)["POLL_S"] = NO_POLLING_S
