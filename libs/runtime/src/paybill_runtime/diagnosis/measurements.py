"""Gauges of a service: what waits, how long, and how many states there are.

They are measured by a loop that runs only with an OTLP endpoint, so that an idle service pays nothing for them. Values
of the database come from the process with the lease of the relay, so that a sum over replicas counts them once.
"""

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nats.errors import Error as NatsError
from opentelemetry.metrics import CallbackOptions, Observation
from sqlalchemy import Executable, text

from paybill_runtime.database.leases import RELAY, Leases
from paybill_runtime.database.pool import Database
from paybill_runtime.errors import DatabaseUnavailableError
from paybill_runtime.telemetry import Attributes, meter

DEFAULT_INTERVAL_MS = 60_000.0
"""Interval of the standard variable OTEL_METRIC_EXPORT_INTERVAL."""
_KIND, _STATE = "paybill.job.kind", "paybill.state"
_DATABASE = text(
    "SELECT (SELECT count(*) FROM chassis.publication WHERE sequence IS NULL) AS outbox_depth, "
    "coalesce((SELECT extract(epoch FROM now() - recorded_at) FROM chassis.publication JOIN chassis.outbox "
    "USING (position) WHERE sequence IS NULL ORDER BY position LIMIT 1), 0) AS outbox_age_s, "
    "(SELECT count(*) FROM chassis.parked WHERE NOT dead) AS retrying, "
    "(SELECT count(*) FROM chassis.parked WHERE dead) AS dead, "
    "(SELECT count(*) FROM chassis.quarantine) AS quarantined, "
    "pg_database_size(current_database()) AS database_bytes"
)
_JOBS = text(
    "SELECT kind, state, count(*) AS amount, greatest(extract(epoch FROM now() - min(due)), 0) AS age_s "
    "FROM chassis.job WHERE state IN ('pending', 'failed') GROUP BY kind, state"
)
Lag = Callable[[], Awaitable[dict[str, int | None]]]
Consumers = Callable[[], Awaitable[dict[str, int]]]
"""Returns how many consumers the service has on each stream, of all its processes."""


@dataclass(frozen=True, slots=True)
class StateCount:
    """A gauge of the service.

    query: rows with a value of `attribute` and a count. values: all that there are; those without a row count as zero.
    """

    metric: str
    unit: str
    description: str
    attribute: str
    query: Executable
    values: Iterable[str]


class Measurements:
    """The gauges of a process, and the loop that measures them."""

    def __init__(
        self,
        database: Database,
        leases: Leases,
        lag: Lag,
        consumers: Consumers,
        counts: Sequence[StateCount],
        disk: Path,
    ) -> None:
        self._database = database
        self._leases = leases
        self._lag = lag
        self._consumers = consumers
        self._counts = counts
        self._disk = disk
        self._values: dict[str, list[Observation]] = {}
        self._create_gauges()

    def _create_gauges(self) -> None:
        meter.create_observable_gauge(
            "paybill.outbox.depth", [self._observe("depth")], "{fact}", "Facts that wait for publication."
        )
        meter.create_observable_gauge(
            "paybill.outbox.age", [self._observe("age")], "s", "Age of the oldest fact that waits for publication."
        )
        meter.create_observable_gauge(
            "paybill.retry_queue.messages", [self._observe("retry")], "{message}", "The retry queue, by state."
        )
        meter.create_observable_gauge(
            "paybill.quarantine.messages", [self._observe("quarantine")], "{message}", "Quarantined intake events."
        )
        meter.create_observable_gauge(
            "paybill.jobs", [self._observe("jobs")], "{job}", "Jobs that are pending or failed, by kind and state."
        )
        meter.create_observable_gauge(
            "paybill.jobs.age", [self._observe("jobs_age")], "s", "Time since the first pending job of a kind is due."
        )
        meter.create_observable_gauge(
            "paybill.database.size", [self._observe("database")], "By", "Size of the database of the service."
        )
        meter.create_observable_gauge(
            "paybill.consumer.lag", [self._observe("lag")], "{message}", "Messages that are not handled yet."
        )
        meter.create_observable_gauge(
            "paybill.stream.consumers",
            [self._observe("consumers")],
            "{consumer}",
            "Consumers of the service, by stream.",
        )
        meter.create_observable_gauge(
            "paybill.leases.held", [self._observe_leases], "{lease}", "Leases of this process, by type."
        )
        meter.create_observable_gauge(
            "system.filesystem.usage", [self._observe_disk], "By", "Space of the disk of the service's files, by state."
        )
        for count in self._counts:
            meter.create_observable_gauge(count.metric, [self._observe(count.metric)], count.unit, count.description)

    async def run(self) -> None:
        """Measures once for each export, until cancelled."""
        interval_s = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", DEFAULT_INTERVAL_MS)) / 1000
        while True:
            await self.measure()
            await asyncio.sleep(interval_s)

    async def measure(self) -> None:
        """Measures all gauges once. Those of the database are absent while it is away."""
        values = {
            "lag": [
                _one(lag, {"paybill.consumer": name}) for name, lag in (await self._lag()).items() if lag is not None
            ]
        }
        if RELAY in self._leases.held:
            with suppress(DatabaseUnavailableError):  # the check `database` of /readyz reports it
                values |= await self._database_values()
            with suppress(NatsError, OSError, TimeoutError):  # the check `nats` of /readyz reports it
                amounts = await self._consumers()
                values["consumers"] = [_one(amount, {"paybill.stream": stream}) for stream, amount in amounts.items()]
        self._values = values

    async def _database_values(self) -> dict[str, list[Observation]]:
        async with self._database.reading() as connection:
            row = (await connection.execute(_DATABASE)).one()
            jobs = (await connection.execute(_JOBS)).all()
            counts = {count: (await connection.execute(count.query)).all() for count in self._counts}
        values: dict[str, list[Observation]] = {
            "depth": [_one(row.outbox_depth)],
            "age": [_one(float(row.outbox_age_s))],
            "retry": [_one(row.retrying, {_STATE: "retrying"}), _one(row.dead, {_STATE: "dead"})],
            "quarantine": [_one(row.quarantined)],
            "database": [_one(row.database_bytes)],
            "jobs": [_one(job.amount, {_KIND: job.kind, _STATE: job.state}) for job in jobs],
            "jobs_age": [_one(float(job.age_s), {_KIND: job.kind}) for job in jobs if job.state == "pending"],
        }
        for count, rows in counts.items():
            amounts = dict.fromkeys(map(str, count.values), 0) | dict(rows)
            values[count.metric] = [_one(amount, {count.attribute: value}) for value, amount in amounts.items()]
        return values

    def _observe(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: self._values.get(name, [])

    def _observe_leases(self, _: CallbackOptions) -> Iterable[Observation]:
        held = Counter("partition" if lease.startswith("partition-") else "singleton" for lease in self._leases.held)
        return [_one(held[type_], {"paybill.lease.type": type_}) for type_ in ("partition", "singleton")]

    def _observe_disk(self, _: CallbackOptions) -> Iterable[Observation]:
        usage = shutil.disk_usage(self._disk)
        states = {"used": usage.used, "free": usage.free}
        return [_one(value, {"system.filesystem.state": state}) for state, value in states.items()]


def _one(value: float, attributes: Attributes | None = None) -> Observation:
    return Observation(value, attributes)
