"""A batch of messages in one transaction: all, or one by one, and the position never beyond what was handled."""

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
PLACE = partition_of(TENANT)


class _Heard:
    """What was heard, in order; a reason that starts with `bad` fails."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def hearing(self) -> Subscriptions:
        hears = Subscriptions()

        @hears.fact(TenantCancelled)
        def cancelled(_unit, fact, _at) -> None:
            if fact.reason == "spoils the batch":
                self.reasons.append("spoiled")
                raise _SpoilsError
            self.reasons.append(fact.reason)

        return hears


class _SpoilsError(BaseException):
    """Nothing in a unit catches this, as nothing there catches what a statement raises."""


class _Robbed(MessageProcessor):
    """Loses its lease right before it handles the message at `robbed_at` by itself."""

    robbed_at = 0

    async def _commit(self, items, *more) -> None:
        try:
            if [item.sequence for item in items] == [self.robbed_at]:
                async with self.database.transaction() as connection:
                    await connection.exec_driver_sql("UPDATE chassis.lease SET epoch = epoch + 1")
            await super()._commit(items, *more)
        except _SpoilsError as error:
            raise RuntimeError("a statement failed") from error


@pytest.fixture
async def quiet(start):
    """A service whose own reader is still."""
    return await start(replace(service(), subscriptions=Subscriptions()))


@pytest.fixture
def heard() -> _Heard:
    return _Heard()


@pytest.fixture
def handling(quiet, heard) -> _Robbed:
    this = quiet.running
    return _Robbed("tenant", heard.hearing(), this.database, this.store, this.group_commit, this.restore_guard)


def _items(hearing: Subscriptions, *reasons: str):
    items = []
    for sequence, reason in enumerate(reasons, start=1):
        event = TenantCancelled(tenant_id=TENANT, origin=HoldOrigin.OPERATOR, reason=reason)
        fact = Fact(event, new_id(), datetime.now(UTC), sequence, Origin("c", "c", "service:tenant", child("")))
        items.append(
            parse_stored(hearing, "tenant", EVENTS, sequence, subject_of(event), headers_of(fact), encode(event))
        )
    return items


async def _position(quiet, databases) -> int:
    rows = await databases.execute(
        str(quiet.running.settings.database_url),
        "tenant",
        f"SELECT sequence FROM chassis.position WHERE stream = 'EVENTS' AND partition = {PLACE}",
    )
    return rows[0]["sequence"]


async def _seeded(quiet, databases) -> dict[str, int]:
    await databases.execute(
        str(quiet.running.settings.database_url),
        "tenant",
        f"INSERT INTO chassis.position (stream, partition, sequence) VALUES ('EVENTS', {PLACE}, 0)",
    )
    return quiet.running.leases.held_of([partition_lease(PLACE)])


async def test_a_batch_is_handled_in_order_and_a_second_copy_changes_nothing(quiet, handling, heard, databases) -> None:
    held = await _seeded(quiet, databases)
    items = _items(handling.subscriptions, "one", "two", "three")

    await handling.process(items, held, {PLACE: 0})
    await handling.process(items[1:], held, {PLACE: 3})

    assert heard.reasons == ["one", "two", "three"]
    assert await _position(quiet, databases) == 3


async def test_a_partition_that_was_read_further_before_stays_where_it_is(quiet, handling, databases) -> None:
    held = await _seeded(quiet, databases)
    url, other = str(quiet.running.settings.database_url), (PLACE + 1) % 16
    ahead = f"INSERT INTO chassis.position (stream, partition, sequence, message) VALUES ('EVENTS', {other}, 2, NULL)"
    await databases.execute(url, "tenant", ahead)
    items = _items(handling.subscriptions, "one", "spoils the batch", "three")
    positions = {PLACE: 0, other: 2}

    await handling.process(items, held, positions)

    rows = await databases.execute(url, "tenant", "SELECT partition, sequence, message::text FROM chassis.position")
    assert {tuple(row) for row in rows} == {(PLACE, 3, items[-1].id), (other, 3, items[-1].id)}
    assert positions == {PLACE: 3, other: 3}


async def test_one_that_spoils_a_batch_is_parked_and_the_position_passes_it(quiet, handling, heard, databases) -> None:
    held = await _seeded(quiet, databases)
    items = _items(handling.subscriptions, "one", "spoils the batch", "three")

    await handling.process(items, held, {PLACE: 0})

    assert heard.reasons == ["one", "spoiled", "one", "spoiled"]  # together, and then each by itself
    assert await _position(quiet, databases) == 3
    url = str(quiet.running.settings.database_url)
    rows = await databases.execute(url, "tenant", "SELECT sequence, attempts FROM chassis.parked ORDER BY sequence")
    assert [tuple(row) for row in rows] == [(2, 1), (3, 0)]


async def test_an_owner_that_is_replaced_between_two_messages_stops_behind_the_last_one_it_handled(
    quiet, handling, heard, databases
) -> None:
    held = await _seeded(quiet, databases)
    quiet.running._tasks["leases"].cancel()
    handling.robbed_at = 3
    items = _items(handling.subscriptions, "one", "spoils the batch", "three")

    with pytest.raises(LeaseLostError):
        await handling.process(items, held, {PLACE: 0})

    assert await _position(quiet, databases) == 2
    url = str(quiet.running.settings.database_url)
    inbox = await databases.execute(url, "tenant", "SELECT sequence FROM chassis.inbox ORDER BY sequence")
    assert [row["sequence"] for row in inbox] == [1, 2]
