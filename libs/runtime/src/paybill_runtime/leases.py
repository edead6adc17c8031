"""Who owns which partition: rows with an epoch, so that a paused owner can never commit."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from paybill_contracts.event import PARTITIONS
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.database import Database
from paybill_runtime.errors import DatabaseUnavailableError

log = logging.getLogger(__name__)

RELAY = "relay"
INTAKE = "intake"
DUTIES = (RELAY, INTAKE, "webhooks")
"""Leases beside the partitions: what one process of a service does at a time."""


def partition_lease(partition: int) -> str:
    """The name of a partition's lease."""
    return f"partition-{partition}"


_HEARTBEAT = text(
    "INSERT INTO chassis.member (owner, expires_at) VALUES (:owner, now() + make_interval(secs => :ttl)) "
    "ON CONFLICT (owner) DO UPDATE SET expires_at = excluded.expires_at"
)
_MEMBERS = text("SELECT count(*) FROM chassis.member WHERE expires_at > now()")
_BURY = text("DELETE FROM chassis.member WHERE expires_at < now() - interval '1 hour'")
_RENEW = text(
    "UPDATE chassis.lease SET expires_at = now() + make_interval(secs => :ttl) WHERE owner = :owner RETURNING name, epoch"
)
_FREE = (
    "(expires_at < now() OR owner = '' OR NOT EXISTS "
    "(SELECT 1 FROM pg_stat_activity WHERE application_name = lease.owner))"
)
_TAKE = text(
    "UPDATE chassis.lease SET owner = :owner, epoch = epoch + 1, expires_at = now() + make_interval(secs => :ttl) "
    f"WHERE name = ANY(SELECT name FROM chassis.lease WHERE name = ANY(:names) AND {_FREE} "
    "ORDER BY name LIMIT :count FOR UPDATE SKIP LOCKED) RETURNING name, epoch"
)
_GIVE_BACK = text("UPDATE chassis.lease SET owner = '', expires_at = now() WHERE owner = :owner AND name = ANY(:names)")
_SEED = text(
    "INSERT INTO chassis.lease (name, owner, epoch, expires_at) SELECT unnest(CAST(:names AS text[])), '', 0, now() "
    "ON CONFLICT DO NOTHING"
)
_LEAVE = text("DELETE FROM chassis.member WHERE owner = :owner")


class Leases:
    """The leases that this process holds. An owner whose connections are all gone from PostgreSQL is taken for dead."""

    def __init__(self, database: Database, owner: str, ttl_s: float) -> None:
        self._database = database
        self._owner = owner
        self._ttl_s = ttl_s
        self.held: dict[str, int] = {}
        self._changed: list[Callable[[], None]] = []

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever a lease is won or lost."""
        self._changed.append(callback)

    def partitions(self) -> list[int]:
        """The partitions that are ours now."""
        return [p for p in range(PARTITIONS) if partition_lease(p) in self.held]

    def some(self, names: Iterable[str]) -> dict[str, int]:
        """Those of `names` that we hold, with their epochs: what a transaction has to fence."""
        return {name: self.held[name] for name in names if name in self.held}

    async def run(self) -> None:
        """Renew, take what is free, give up what is more than our share; for ever."""
        while True:
            try:
                await self.tick()
            except DatabaseUnavailableError:
                log.warning("leases cannot be renewed: PostgreSQL does not answer")
            await asyncio.sleep(self._ttl_s / 5)

    async def tick(self) -> None:
        """One round."""
        names = [partition_lease(p) for p in range(PARTITIONS)]
        async with self._database.transaction() as connection:
            await connection.execute(_SEED, {"names": [*names, *DUTIES]})
            await connection.execute(_HEARTBEAT, {"owner": self._owner, "ttl": self._ttl_s})
            await connection.execute(_BURY)
            members = max(1, (await connection.execute(_MEMBERS)).scalar_one())
            rows = (await connection.execute(_RENEW, {"owner": self._owner, "ttl": self._ttl_s})).all()
            held = {row.name: row.epoch for row in rows}
            share = -(-PARTITIONS // members)
            mine = [name for name in names if name in held]
            if len(mine) > share:
                surplus = mine[share:]
                await connection.execute(_GIVE_BACK, {"owner": self._owner, "names": surplus})
                held = {name: epoch for name, epoch in held.items() if name not in surplus}
            taken = []
            if len(mine) < share:
                taken += await self._take(connection, [n for n in names if n not in held], share - len(mine))
            taken += await self._take(connection, [n for n in DUTIES if n not in held], len(DUTIES))
            held.update(taken)
        if held != self.held:
            self.held = held
            for callback in self._changed:
                callback()

    async def _take(self, connection: AsyncConnection, names: list[str], count: int) -> list[tuple[str, int]]:
        if not names:
            return []
        values = {"owner": self._owner, "ttl": self._ttl_s, "names": names, "count": count}
        rows = await connection.execute(_TAKE, values)
        return [(row.name, row.epoch) for row in rows]

    async def give_back(self) -> None:
        """Hand everything over, so that the next owner need not wait."""
        async with self._database.transaction() as connection:
            await connection.execute(_GIVE_BACK, {"owner": self._owner, "names": list(self.held)})
            await connection.execute(_LEAVE, {"owner": self._owner})
        self.held = {}
