"""Watchdog of tenants' sessions: ends those that stop their neighbours, or that exceed a limit they could raise."""

import asyncio
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from paybill_runtime.jobs.kinds import RetryAfter

from paybill_provisioner.drivers.server import SLOTS, Connection, TenantServer

EVERY_S = 0.5
"""Period. A lock is ended within two periods, and its neighbours wait at most that long."""

_ROUNDS_OF_LIMITS = 7200
"""Periods between two comparisons of the logins' limits with the server: an hour."""

_PAUSE_S = 2.0
"""Pause after an error: the server does not answer, or the driver's role lacks a right."""

_LOG = logging.getLogger(__name__)

# No statement that a tenant needs in a pool takes one of these locks. A session that waits for one stops its neighbours
# as well, since they queue behind it. Sessions are judged by the server's clock.
_END = r"""
WITH excess (pid, role, database, reason) AS (
    SELECT l.pid, a.usename, a.datname, 'it locks a shared table in the mode ' || l.mode
    FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.locktype = 'relation' AND a.datname ~ '^pool_' AND l.mode IN (
        'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    UNION ALL
    SELECT pid, usename, datname, format('its statement has run for more than %s s', $1::float8)
    FROM pg_stat_activity
    WHERE state = 'active' AND query_start < clock_timestamp() - make_interval(secs => $1)
    UNION ALL
    SELECT pid, usename, datname, format('its transaction has been idle for more than %s s', $2::float8)
    FROM pg_stat_activity
    WHERE state ~ '^idle in transaction' AND state_change < clock_timestamp() - make_interval(secs => $2)
), sessions AS MATERIALIZED (
    SELECT DISTINCT ON (pid) * FROM excess WHERE role ~ '^[at]_[0-9a-f]{32}' AND pid <> pg_backend_pid()
    ORDER BY pid, reason
)
SELECT role::text, database::text, reason FROM sessions WHERE pg_terminate_backend(pid)
"""
_LIMITS = (
    "SELECT coalesce(sum(rolconnlimit), 0) FROM pg_roles WHERE rolconnlimit > 0 AND rolname ~ '^[at]_[0-9a-f]{32}'"
)


@dataclass(frozen=True, slots=True)
class EndedSession:
    """A session of a tenant, or of its agents, that was ended."""

    tenant_id: str
    role: str
    database: str
    reason: str


class SessionWatchdog:
    """Watches the sessions of all tenants on one server, beside all jobs; every process of the service may run it.

    statement_s, idle_s: longest statement, and longest idle time in a transaction, in seconds.
    """

    def __init__(self, server: TenantServer, statement_s: float, idle_s: float) -> None:
        self._server = server
        self._limits = (statement_s, idle_s)

    async def run(self) -> None:
        """Ends sessions until it is cancelled; no error of the server ends it."""
        while True:
            try:
                async with self._server.connection(self._server.maintenance_database, pooled=False) as connection:
                    for number in itertools.count():
                        if number % _ROUNDS_OF_LIMITS == 0:
                            await self.compare_limits(connection)
                        await self.end_sessions(connection)
                        await asyncio.sleep(EVERY_S)
            except RetryAfter as error:
                _LOG.warning("sessions of tenants are not watched: %s", error)
            except Exception:  # noqa: BLE001  # the next round may work
                _LOG.exception("sessions of tenants are not watched")
            await asyncio.sleep(_PAUSE_S)

    async def compare_limits(self, connection: Connection) -> None:
        """Logs when the logins of all tenants together may open more connections than the server has for them."""
        allowed, slots = await connection.fetchval(_LIMITS), await connection.fetchval(SLOTS)
        if allowed > slots:
            _LOG.warning(
                "the logins of tenants may open %d connections, and the server has %d for them: raise max_connections,"
                " publish a blueprint with a lower connection_limit, or use a pooler",
                allowed,
                slots,
            )

    async def end_sessions(self, connection: Connection) -> Sequence[EndedSession]:
        """Ends the sessions that exceed a limit now, and logs each with its tenant and the reason."""
        ended = [
            EndedSession(f"ten_{row['role'][2:34]}", row["role"], row["database"], row["reason"])
            for row in await connection.fetch(_END, *self._limits)
        ]
        for each in ended:
            _LOG.warning(
                "a session of %s (%s in %s) was ended: %s", each.tenant_id, each.role, each.database, each.reason
            )
        return ended
