"""Minimal service on the common runtime: it notes numbers from events, and settles each by an effect.

It runs with user and database role of the tenant service. The numbers count up for each tenant, so that lost, repeated
or reordered facts show in its own facts, whatever the tables of the runtime contain.
"""

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import assert_never

from fastapi import APIRouter
from paybill_contracts.envelope import Fact, Origin, headers_of
from paybill_contracts.event import Event
from paybill_contracts.values import Count, TenantId
from paybill_runtime.app import Service
from paybill_runtime.database.pool import Database
from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.effects import Job, JobRegistry, Outcome
from paybill_runtime.jobs.kinds import RetryAfter
from paybill_runtime.main import run
from paybill_runtime.messaging.streams import connect
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.settings import ServiceSettings
from paybill_runtime.telemetry import child
from paybill_runtime.testing.signing import publish_fact
from sqlalchemy import MetaData
from sqlalchemy.orm import registry

_WHEN = datetime(2026, 1, 1, tzinfo=UTC)
_NAMES = uuid.UUID("6f1c6a3e-6c57-4c43-8f0c-0c4f4b3a1d10")


class ProbeRequested(Event, type="billing.probe_requested", version=1, aggregate="probe_request", key="tenant_id"):
    """The handled event: `number` counts up from 1 for each tenant."""

    tenant_id: TenantId
    number: Count


class ProbeNoted(Event, type="tenant.probe_noted", version=1, aggregate="probe", key="tenant_id"):
    """The number was handled."""

    tenant_id: TenantId
    number: Count


class ProbeSettled(Event, type="tenant.probe_settled", version=1, aggregate="probe", key="tenant_id"):
    """The effect of the number was carried out."""

    tenant_id: TenantId
    number: Count


@dataclass(frozen=True, slots=True)
class Probe:
    """Counts of noted and settled numbers."""

    noted: int = 0
    settled: int = 0


def evolve(probe: Probe | None, event: ProbeNoted | ProbeSettled) -> Probe:
    """Returns the state after a fact."""
    probe = probe or Probe()
    match event:
        case ProbeNoted():
            return replace(probe, noted=probe.noted + 1)
        case ProbeSettled():
            return replace(probe, settled=probe.settled + 1)
        case _:
            assert_never(event)


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """Rows of this service."""


class ProbeRow(Base, table=True):
    """Counts of one tenant."""

    __tablename__ = "probes"


PROBES = Stored("probe", ProbeRow, Probe, evolve)
HANDLERS = Subscriptions()
JOBS = JobRegistry()


@HANDLERS.fact(ProbeRequested, writes=lambda event: [PROBES.key(event.tenant_id)])
def on_probe_requested(unit: UnitOfWork, event: ProbeRequested, _: DecisionContext) -> None:
    """Notes the number."""
    unit.record(PROBES, event.tenant_id, [ProbeNoted(tenant_id=event.tenant_id, number=event.number)])


_waited: set[str] = set()


@JOBS.effect(ProbeNoted)
async def settle(job: Job[ProbeNoted], _: None) -> AsyncIterator[Outcome]:
    """Records an outcome without any call: the test is whether each outcome is recorded once.

    The first attempt in a process gives its slot back, as a job does that waits for another system.
    """
    if job.id not in _waited:
        _waited.add(job.id)
        raise RetryAfter(0.01, "the first attempt waits")
    settled = ProbeSettled(tenant_id=job.event.tenant_id, number=job.event.number)
    key = PROBES.key(settled.tenant_id)
    yield Outcome(lambda unit, _: unit.record(PROBES, key.id, [settled]), writes=[key], last=True)


def service() -> Service:
    """Returns the probe service."""
    return Service(
        name="tenant",
        settings=ServiceSettings,
        states=(PROBES,),
        router=lambda _: APIRouter(),
        subscriptions=HANDLERS,
        jobs=JOBS,
    )


def main() -> None:
    """Runs the probe, like a service's own `__main__`."""
    run(service())


async def create_tables(url: str, password: str) -> None:
    """Creates the table of this service; the runtime migrates its own."""
    database = Database(url, password, "probe")
    async with database.transaction() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await database.close()


def tenant(number: int) -> str:
    """Returns the id of one of the tenants."""
    return f"ten_{uuid.uuid5(_NAMES, str(number)).hex}"


async def publish_numbers(url: str, password: str, tenants: int, numbers: Sequence[int], copy: int = 0) -> None:
    """Publishes these numbers for every tenant, as billing. copy: distinguishes repetitions of the same facts."""
    client = await connect(url, "billing", password)
    try:
        for number in numbers:
            for index in range(tenants):
                event = ProbeRequested(tenant_id=tenant(index), number=number)
                id_ = str(uuid.uuid5(_NAMES, f"{index}/{number}"))
                fact = Fact(event, id_, _WHEN, number, Origin(id_, id_, "service:billing", child(None)))
                # Another message id for each copy, so that the stream's duplicate window does not remove it.
                headers = headers_of(fact) | {"Nats-Msg-Id": f"{id_}-{copy}"}
                await publish_fact(client, event, headers)
    finally:
        await client.close()
