"""Leases of partitions: one owner at a time, takeover after its end, and even shares."""

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
    """Leases of one process of a service."""

    def __init__(self, url: str, password: str, name: str, ttl_s: float) -> None:
        self.database = Database(url, password, name)
        self.leases = Leases(self.database, name, ttl_s)


@pytest.fixture
async def replica(databases, postgres) -> Iterator[object]:
    """`replica(name)` returns the leases of another process of the service."""
    url = await databases.fresh("tenant")
    password = read_secret(postgres.password_file("tenant"))
    made: list[_Replica] = []

    def make(name: str, ttl_s: float = TTL_S) -> _Replica:
        made.append(_Replica(url, password, name, ttl_s))
        return made[-1]

    yield make
    for one in made:
        await one.database.close()


async def _tick(*replicas: _Replica) -> None:
    for one in replicas:
        await one.leases.tick()


def _counts(*replicas: _Replica) -> list[int]:
    return [len(one.leases.partitions()) for one in replicas]


async def test_a_single_replica_owns_every_partition(replica) -> None:
    alone = replica("alone")

    await _tick(alone)

    assert _counts(alone) == [16]
    assert set(SINGLETON_LEASES) <= alone.leases.held.keys()


async def test_replicas_that_start_together_never_share_a_lease_and_end_with_even_shares(replica) -> None:
    replicas = [replica(f"r{n}") for n in range(3)]

    for _ in range(4):
        await asyncio.gather(*(one.leases.tick() for one in replicas))
        owned = [name for one in replicas for name in one.leases.held]
        assert len(owned) == len(set(owned))

    assert sorted(_counts(*replicas)) == [4, 6, 6]
    assert sum(len(one.leases.held_of(SINGLETON_LEASES)) for one in replicas) == len(SINGLETON_LEASES)


async def test_a_replica_that_starts_during_another_s_round_is_not_considered_dead(replica) -> None:
    first, late = replica("first"), replica("late")
    async with first.database.transaction() as connection:
        names = await connection.execute(text("SELECT application_name FROM pg_stat_activity"))
        assert "late" not in names.scalars().all()
        await _tick(late)

        taken = await first.leases._take(connection, list(SINGLETON_LEASES), len(SINGLETON_LEASES))

    assert not taken


async def test_an_owner_without_heartbeat_keeps_its_leases_until_they_expire(replica) -> None:
    silent, other = replica("silent"), replica("other")
    before_heartbeat = time.monotonic()
    await _tick(silent, other)
    assert _counts(silent, other) == [16, 0]

    async def taken() -> bool:
        await _tick(other)
        return _counts(other) == [16]

    assert await until(taken)
    assert time.monotonic() - before_heartbeat >= TTL_S


async def test_an_owner_whose_connections_are_closed_loses_its_leases_at_once(replica) -> None:
    killed, other = replica("killed", ttl_s=600), replica("other", ttl_s=600)
    await _tick(killed, other)

    await killed.database.close()

    async def taken() -> bool:
        await _tick(other)
        return _counts(other) == [16]

    assert await until(taken)


async def test_released_leases_are_available_at_once(replica) -> None:
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


async def test_a_heartbeat_does_not_wait_for_a_long_batch(replica) -> None:
    owner = replica("owner")
    await _tick(owner)

    async with owner.database.transaction() as connection:
        await fence(connection, owner.leases.held)
        async with asyncio.timeout(20):
            await _tick(owner)

    assert _counts(owner) == [16]


async def test_expired_leases_locked_by_a_batch_are_not_taken_over(replica) -> None:
    paused, other = replica("paused"), replica("other")
    await _tick(paused)
    async with paused.database.transaction() as connection:
        await fence(connection, paused.leases.held_of([partition_lease(0)]))

        async def taken_over() -> bool:
            await _tick(other)
            return len(other.leases.partitions()) > 8

        await until(taken_over)

        assert sorted(other.leases.partitions()) == list(range(1, 16))
    await _tick(other)

    assert _counts(other) == [16]


async def test_a_process_that_slept_for_a_lease_s_duration_is_uncertain_until_its_next_round(replica) -> None:
    one = replica("one")
    before = one.leases.certain
    await _tick(one)
    checked = one.leases.certain

    time.sleep(TTL_S)  # noqa: ASYNC251  # the whole process sleeps
    after_sleep = one.leases.certain
    await _tick(one)

    assert (before, checked, after_sleep, one.leases.certain) == (False, True, False, True)
