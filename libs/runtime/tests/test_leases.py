"""Who owns a partition: one process at a time, another as soon as that one is gone, and an even share for each."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from paybill_runtime.database.leases import SINGLETON_LEASES, Leases, fence, partition_lease
from paybill_runtime.database.pool import Database
from paybill_runtime.errors import LeaseLostError
from paybill_runtime.settings import read_secret
from paybill_runtime.testing import until
from sqlalchemy import text

TTL_S = 1.0


class _Replica:
    """A process of a service, as far as leases see one."""

    def __init__(self, url: str, password: str, name: str) -> None:
        self.database = Database(url, password, name)
        self.leases = Leases(self.database, name, TTL_S)


@pytest.fixture
async def replica(databases, postgres) -> Iterator[object]:
    """`replica(name)` is another process of one service."""
    url = await databases.fresh("tenant")
    password = read_secret(postgres.password_file("tenant"))
    made: list[_Replica] = []

    def make(name: str) -> _Replica:
        made.append(_Replica(url, password, name))
        return made[-1]

    yield make
    for one in made:
        await one.database.close()


async def _tick(*replicas: _Replica) -> None:
    for one in replicas:
        await one.leases.tick()


def _counts(*replicas: _Replica) -> list[int]:
    return [len(one.leases.partitions()) for one in replicas]


async def test_one_alone_owns_everything(replica) -> None:
    alone = replica("alone")

    await _tick(alone)

    assert _counts(alone) == [16]
    assert set(SINGLETON_LEASES) <= alone.leases.held.keys()


async def test_replicas_that_start_at_once_never_own_a_lease_twice_and_end_with_even_shares(replica) -> None:
    replicas = [replica(f"r{n}") for n in range(3)]

    for _ in range(4):
        await asyncio.gather(*(one.leases.tick() for one in replicas))
        owned = [name for one in replicas for name in one.leases.held]
        assert len(owned) == len(set(owned))

    assert sorted(_counts(*replicas)) == [4, 6, 6]
    assert sum(len(one.leases.held_of(SINGLETON_LEASES)) for one in replicas) == len(SINGLETON_LEASES)


async def test_who_came_while_another_was_looking_is_not_taken_for_dead(replica) -> None:
    first, late = replica("first"), replica("late")
    async with first.database.transaction() as connection:
        seen = await connection.execute(text("SELECT application_name FROM pg_stat_activity"))
        assert "late" not in seen.scalars().all()
        await _tick(late)

        taken = await first.leases._take(connection, list(SINGLETON_LEASES), len(SINGLETON_LEASES))

    assert not taken


async def test_a_silent_owner_keeps_its_leases_until_its_time_is_over(replica) -> None:
    silent, other = replica("silent"), replica("other")
    await _tick(silent, other)
    assert _counts(silent, other) == [16, 0]

    async def taken() -> bool:
        await _tick(other)
        return _counts(other) == [16]

    await asyncio.sleep(TTL_S / 2)
    assert not await taken()
    assert await until(taken, timeout_s=5 * TTL_S)


async def test_an_owner_whose_connections_are_gone_is_dead_at_once(replica) -> None:
    killed, other = replica("killed"), replica("other")
    await _tick(killed, other)

    await killed.database.close()

    async def taken() -> bool:
        await _tick(other)
        return _counts(other) == [16]

    assert await until(taken, timeout_s=TTL_S / 2)


async def test_what_is_handed_over_is_free_at_once(replica) -> None:
    leaving, other = replica("leaving"), replica("other")
    await _tick(leaving)

    await leaving.leases.release_all()
    await _tick(other)

    assert _counts(leaving, other) == [0, 16]


async def test_an_owner_that_was_replaced_cannot_commit_even_if_it_gets_the_lease_again(replica) -> None:
    first, second = replica("first"), replica("second")
    await _tick(first)
    stale = first.leases.held_of([partition_lease(3)])
    await first.leases.release_all()
    await _tick(second)
    await second.leases.release_all()
    await _tick(first)

    with pytest.raises(LeaseLostError, match="partition-3"):
        async with first.database.transaction() as connection:
            await fence(connection, stale)
    async with first.database.transaction() as connection:
        await fence(connection, first.leases.held_of([partition_lease(3)]))


async def test_a_sign_of_life_does_not_wait_for_a_long_batch(replica) -> None:
    owner = replica("owner")
    await _tick(owner)

    async with owner.database.transaction() as connection:
        await fence(connection, owner.leases.held)
        async with asyncio.timeout(1):
            await _tick(owner)

    assert _counts(owner) == [16]


async def test_leases_that_a_batch_has_locked_are_not_taken_from_under_it(replica) -> None:
    paused, other = replica("paused"), replica("other")
    await _tick(paused)
    async with paused.database.transaction() as connection:
        await fence(connection, paused.leases.held_of([partition_lease(0)]))
        await asyncio.sleep(1.2 * TTL_S)

        await _tick(other)

        assert sorted(other.leases.partitions()) == list(range(1, 16))
    await _tick(other)

    assert _counts(other) == [16]


async def test_who_slept_as_long_as_a_lease_lasts_is_not_certain_until_it_has_looked(replica) -> None:
    one = replica("one")
    before = one.leases.certain
    await _tick(one)
    looked = one.leases.certain

    time.sleep(TTL_S)  # noqa: ASYNC251  # the whole process sleeps
    slept = one.leases.certain
    await _tick(one)

    assert (before, looked, slept, one.leases.certain) == (False, True, False, True)
