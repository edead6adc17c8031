"""Ownership of partitions: leases with an epoch as fencing token, so that a paused owner can never commit."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from paybill_contracts.event import PARTITIONS
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.database.pool import Database
from paybill_runtime.database.retry import retry_on_conflict
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError

log = logging.getLogger(__name__)

RELAY = "relay"
INTAKE = "intake"
SINGLETON_LEASES = (RELAY, INTAKE)
"""Leases of tasks that one process of every service runs at a time."""


def partition_lease(partition: int) -> str:
    """Returns the name of a partition's lease."""
    return f"partition-{partition}"


_ALIVE = "m.expires_at > now() AND EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.application_name = m.owner)"
# One statement, so that an idle replica costs one transaction for each heartbeat. It does not see its own changes.
_HEARTBEAT = (
    "WITH heartbeat AS (INSERT INTO chassis.member (owner, expires_at) "  # noqa: S608  # a constant, above
    "VALUES ($1, now() + make_interval(secs => $2)) "
    "ON CONFLICT (owner) DO UPDATE SET expires_at = excluded.expires_at), "
    "expired AS (DELETE FROM chassis.member WHERE expires_at < now() - interval '1 hour' AND owner <> $1) "
    "SELECT o.others, l.name, l.epoch FROM "
    f"(SELECT count(*) AS others FROM chassis.member AS m WHERE m.owner <> $1 AND {_ALIVE}) AS o "
    "LEFT JOIN chassis.lease AS l ON l.owner = $1"
)
_INSTANCES = text(f"SELECT count(*) FROM chassis.member AS m WHERE {_ALIVE}")  # noqa: S608  # as above
_HELD = text("SELECT name, epoch FROM chassis.lease WHERE owner = :owner")
_TAKE = text(
    "WITH unowned AS MATERIALIZED (SELECT name, epoch FROM chassis.lease AS l WHERE name = ANY(:names) "  # noqa: S608
    f"AND NOT EXISTS (SELECT FROM chassis.member AS m WHERE m.owner = l.owner AND {_ALIVE})), "
    # PostgreSQL rechecks a row that changed before it was locked, but not its owner's heartbeat: hence the epoch.
    "free AS MATERIALIZED (SELECT name FROM chassis.lease AS l JOIN unowned USING (name, epoch) "
    "ORDER BY name LIMIT :count FOR NO KEY UPDATE OF l SKIP LOCKED) "
    "UPDATE chassis.lease SET owner = :owner, epoch = epoch + 1 FROM free WHERE lease.name = free.name "
    "RETURNING lease.name, lease.epoch"
)
OWNED = text(
    "SELECT EXISTS (SELECT FROM chassis.lease AS l JOIN chassis.member AS m ON m.owner = l.owner "
    "WHERE l.name = :name AND m.expires_at > now())"
)
"""Returns true for a lease whose owner has a heartbeat."""
UNOWNED_PARTITIONS = (
    "SELECT count(*) FROM chassis.lease AS l WHERE l.name LIKE 'partition-%' AND NOT EXISTS ("
    "SELECT FROM chassis.member AS m WHERE m.owner = l.owner AND m.expires_at > now())"
)
"""Counts the partitions whose owner has no heartbeat."""
_CLEAR_SNAPSHOT = text("SELECT pg_stat_clear_snapshot()")
_RELEASE = text("UPDATE chassis.lease SET owner = '' WHERE name = :name AND owner = :owner")
_RELEASE_ALL = text("UPDATE chassis.lease SET owner = '' WHERE owner = :owner")
_SEED = text(
    "INSERT INTO chassis.lease (name, owner, epoch) SELECT unnest(CAST(:names AS text[])), '', 0 ON CONFLICT DO NOTHING"
)
_DELETE_INSTANCE = text("DELETE FROM chassis.member WHERE owner = :owner")
_FENCE = text("SELECT name, epoch FROM chassis.lease WHERE name = ANY(:names) ORDER BY name FOR SHARE")


class Leases:
    """The leases that this process holds.

    They last as long as its heartbeat: every fifth of `ttl_s`, by PostgreSQL's clock. A process without a heartbeat
    for `ttl_s`, or without any connection, is dead. Rows of leases change only with their owner, so that a heartbeat
    never waits for transactions that lock them.
    singletons: leases that the service declares for tasks of its own, beside those of every service.
    """

    def __init__(self, database: Database, owner: str, ttl_s: float, singletons: Sequence[str] = ()) -> None:
        self._database = database
        self._owner = owner
        self._ttl_s = ttl_s
        self._singletons = (*SINGLETON_LEASES, *singletons)
        self.held: dict[str, int] = {}
        self._certain_until = 0.0
        self._seeded = False
        self._callbacks: list[Callable[[], None]] = []

    def on_change(self, callback: Callable[[], None]) -> None:
        """Registers a function that is called whenever a lease is gained or lost, or the leases are certain again."""
        self._callbacks.append(callback)

    def partitions(self) -> list[int]:
        """Returns the partitions whose leases this process holds."""
        return [p for p in range(PARTITIONS) if partition_lease(p) in self.held]

    def held_of(self, names: Iterable[str]) -> dict[str, int]:
        """Returns those of `names` that this process holds, with their epochs: the fencing tokens of a transaction."""
        return {name: self.held[name] for name in names if name in self.held}

    @property
    def certain(self) -> bool:
        """True when no other process can have taken over since the last heartbeat.

        Transactions are safe without this check, because they name the epoch; calls to other systems are not.
        """
        return self.certain_s > 0

    @property
    def certain_s(self) -> float:
        """Seconds for which the leases are still `certain` without another heartbeat."""
        return max(self._certain_until - time.monotonic(), 0.0)

    async def run(self) -> None:
        """Renews, takes free leases and releases more than an even share, until cancelled."""
        while True:
            try:
                await self.tick()
            except DatabaseUnavailableError:
                log.warning("leases cannot be renewed: PostgreSQL does not answer")
            await asyncio.sleep(self._ttl_s / 5)

    async def tick(self) -> None:
        """Runs one round."""
        began, was_certain = time.monotonic(), self.certain
        held = await retry_on_conflict(self._round)
        self._certain_until = began + self._ttl_s
        if held != self.held or not was_certain:
            self.held = held
            for callback in self._callbacks:
                callback()

    async def _round(self) -> dict[str, int]:
        names = [partition_lease(p) for p in range(PARTITIONS)]
        if not self._seeded:
            async with self._database.transaction() as connection:
                await connection.execute(_SEED, {"names": [*names, *self._singletons]})
            self._seeded = True
        # The heartbeat is committed before anything else can block; replicas that start together count each other.
        async with self._database.direct(committing=True) as connection:
            rows = await connection.fetch(_HEARTBEAT, self._owner, self._ttl_s)
        held = {row["name"]: row["epoch"] for row in rows if row["name"] is not None}
        share = -(-PARTITIONS // (rows[0]["others"] + 1))
        if sum(name in held for name in names) == share and held.keys() >= set(self._singletons):
            return held
        return await self._share_out(names)

    async def _share_out(self, names: list[str]) -> dict[str, int]:
        """Releases leases above an even share and takes free ones."""
        async with self._database.transaction() as connection:
            instances = (await connection.execute(_INSTANCES)).scalar_one()
            share = -(-PARTITIONS // max(instances, 1))
            held = {row.name: row.epoch for row in await connection.execute(_HELD, {"owner": self._owner})}
            own = [name for name in names if name in held]
            for name in sorted(own[share:]):  # in the order in which batches lock them
                await connection.execute(_RELEASE, {"name": name, "owner": self._owner})
                del held[name]
            held |= await self._take(connection, [name for name in names if name not in held], share - len(own))
            free = [name for name in self._singletons if name not in held]
            held |= await self._take(connection, free, len(free))
        return held

    async def _take(self, connection: AsyncConnection, names: list[str], count: int) -> dict[str, int]:
        if not names or count <= 0:
            return {}
        # PostgreSQL keeps its view of connections until a transaction ends: a process that connected since would be
        # considered dead.
        await connection.execute(_CLEAR_SNAPSHOT)
        rows = await connection.execute(_TAKE, {"owner": self._owner, "names": names, "count": count})
        return {row.name: row.epoch for row in rows}

    async def release_all(self) -> None:
        """Releases all leases, so that the next owner need not wait for their end."""
        async with self._database.transaction() as connection:
            await connection.execute(_RELEASE_ALL, {"owner": self._owner})
            await connection.execute(_DELETE_INSTANCE, {"owner": self._owner})
        self.held = {}
        self._certain_until = 0.0


async def fence(connection: AsyncConnection, held: Mapping[str, int]) -> None:
    """Locks these leases against a change of owner until the transaction ends. Raises LeaseLostError."""
    rows = await connection.execute(_FENCE, {"names": sorted(held)})
    lost = set(held.items()).difference((row.name, row.epoch) for row in rows)
    if lost:
        raise LeaseLostError(f"another process owns {', '.join(sorted(name for name, _ in lost))}")
