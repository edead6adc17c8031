"""Processing of a batch: together or one by one, and the position never passes an unhandled message."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode, partition_of
from paybill_contracts.tenant import HoldOrigin, TenantCancelled
from paybill_runtime.clock import new_id
from paybill_runtime.database.leases import partition_lease
from paybill_runtime.errors import LeaseLostError
from paybill_runtime.messaging.message import parse_stored
from paybill_runtime.messaging.processor import MessageProcessor
from paybill_runtime.messaging.streams import EVENTS
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.telemetry import child
from paybill_tenant.app import service

TENANT = "ten_" + "4" * 32
PARTITION = partition_of(TENANT)


class _Handled:
    """Records the handled reasons in order; one reason breaks its batch."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def subscriptions(self) -> Subscriptions:
        subscriptions = Subscriptions()

        @subscriptions.fact(TenantCancelled)
        def cancelled(_unit, fact, _at) -> None:
            if fact.reason == "breaks the batch":
                self.reasons.append("broken")
                raise _BreaksBatchError
            self.reasons.append(fact.reason)

        return subscriptions


class _BreaksBatchError(BaseException):
    """Passes every `except Exception` of a unit of work, as an error of a statement does."""


class _LosesLease(MessageProcessor):
    """Processor that loses its lease right before it handles the message at `lost_at` alone."""

    lost_at = 0

    async def _commit(self, items, *more) -> None:
        try:
            if [item.sequence for item in items] == [self.lost_at]:
                async with self.database.transaction() as connection:
                    await connection.exec_driver_sql("UPDATE chassis.lease SET epoch = epoch + 1")
            await super()._commit(items, *more)
        except _BreaksBatchError as error:
            raise RuntimeError("a statement failed") from error


@pytest.fixture
async def quiet(start):
    """Service without subscriptions."""
    return await start(replace(service(), subscriptions=Subscriptions()))


@pytest.fixture
def handled() -> _Handled:
    return _Handled()


@pytest.fixture
def processor(quiet, handled) -> _LosesLease:
    this = quiet.running
    return _LosesLease(
        "tenant",
        handled.subscriptions(),
        this.database,
        this.store,
        this.group_commit,
        this.restore_guard,
        this.settings,
    )


def _items(subscriptions: Subscriptions, *reasons: str):
    items = []
    for sequence, reason in enumerate(reasons, start=1):
        event = TenantCancelled(tenant_id=TENANT, origin=HoldOrigin.OPERATOR, reason=reason)
        fact = Fact(event, new_id(), datetime.now(UTC), sequence, Origin("c", "c", "service:tenant", child("")))
        items.append(
            parse_stored(subscriptions, "tenant", EVENTS, sequence, subject_of(event), headers_of(fact), encode(event))
        )
    return items


async def _position(quiet, databases) -> int:
    rows = await databases.execute(
        str(quiet.running.settings.database_url),
        "tenant",
        f"SELECT sequence FROM chassis.position WHERE stream = 'EVENTS' AND partition = {PARTITION}",
    )
    return rows[0]["sequence"]


async def _seeded(quiet, databases) -> dict[str, int]:
    await databases.execute(
        str(quiet.running.settings.database_url),
        "tenant",
        f"INSERT INTO chassis.position (stream, partition, sequence) VALUES ('EVENTS', {PARTITION}, 0)",
    )
    return quiet.running.leases.held_of([partition_lease(PARTITION)])


async def test_a_batch_is_handled_in_order_and_a_second_copy_changes_nothing(
    quiet, processor, handled, databases
) -> None:
    held = await _seeded(quiet, databases)
    items = _items(processor.subscriptions, "one", "two", "three")

    await processor.process(items, held, {PARTITION: 0})
    await processor.process(items[1:], held, {PARTITION: 3})

    assert handled.reasons == ["one", "two", "three"]
    assert await _position(quiet, databases) == 3


async def test_a_partition_that_is_ahead_keeps_its_position(quiet, processor, databases) -> None:
    held = await _seeded(quiet, databases)
    url, other = str(quiet.running.settings.database_url), (PARTITION + 1) % 16
    ahead = f"INSERT INTO chassis.position (stream, partition, sequence, message) VALUES ('EVENTS', {other}, 2, NULL)"
    await databases.execute(url, "tenant", ahead)
    items = _items(processor.subscriptions, "one", "breaks the batch", "three")
    positions = {PARTITION: 0, other: 2}

    await processor.process(items, held, positions)

    rows = await databases.execute(url, "tenant", "SELECT partition, sequence, message::text FROM chassis.position")
    assert {tuple(row) for row in rows} == {(PARTITION, 3, items[-1].id), (other, 3, items[-1].id)}
    assert positions == {PARTITION: 3, other: 3}


async def test_a_message_that_breaks_a_batch_goes_to_the_retry_queue_and_the_position_advances(
    quiet, processor, handled, databases
) -> None:
    held = await _seeded(quiet, databases)
    items = _items(processor.subscriptions, "one", "breaks the batch", "three")

    await processor.process(items, held, {PARTITION: 0})

    assert handled.reasons == ["one", "broken", "one", "broken"]  # together, and then one by one
    assert await _position(quiet, databases) == 3
    url = str(quiet.running.settings.database_url)
    rows = await databases.execute(url, "tenant", "SELECT sequence, attempts FROM chassis.parked ORDER BY sequence")
    assert [tuple(row) for row in rows] == [(2, 1), (3, 0)]


async def test_an_owner_that_loses_its_lease_in_a_batch_stops_after_the_last_handled_message(
    quiet, processor, handled, databases
) -> None:
    held = await _seeded(quiet, databases)
    quiet.running.loops.tasks["leases"].cancel()
    processor.lost_at = 3
    items = _items(processor.subscriptions, "one", "breaks the batch", "three")

    with pytest.raises(LeaseLostError):
        await processor.process(items, held, {PARTITION: 0})

    assert await _position(quiet, databases) == 2
    url = str(quiet.running.settings.database_url)
    inbox = await databases.execute(url, "tenant", "SELECT sequence FROM chassis.inbox ORDER BY sequence")
    assert [row["sequence"] for row in inbox] == [1, 2]
