"""A tiny service on the runtime that every service has: it notes numbers that it hears, and settles each outside.

It runs as the tenant service, whose user and database role it has. What it is told counts up for each tenant, so that
what is lost, handled twice or out of order shows in what it said, whatever the tables of the runtime claim.
"""

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import assert_never

from fastapi import APIRouter
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import Event, encode
from paybill_contracts.values import Count, TenantId
from paybill_runtime.app import Service
from paybill_runtime.database.pool import Database
from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.effects import Job, JobRegistry, Outcome
from paybill_runtime.main import run
from paybill_runtime.messaging.streams import connect
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.settings import ServiceSettings
from paybill_runtime.telemetry import child
from sqlalchemy import MetaData
from sqlalchemy.orm import registry

_WHEN = datetime(2026, 1, 1, tzinfo=UTC)
_NAMES = uuid.UUID("6f1c6a3e-6c57-4c43-8f0c-0c4f4b3a1d10")


class ProbeAsked(Event, type="billing.probe_asked", version=1, aggregate="asking", key="tenant_id"):
    """What is heard: `number` counts up from 1 for each tenant."""

    tenant_id: TenantId
    number: Count


class ProbeNoted(Event, type="tenant.probe_noted", version=1, aggregate="probe", key="tenant_id"):
    """It was heard."""

    tenant_id: TenantId
    number: Count


class ProbeSettled(Event, type="tenant.probe_settled", version=1, aggregate="probe", key="tenant_id"):
    """It was done outside."""

    tenant_id: TenantId
    number: Count


@dataclass(frozen=True, slots=True)
class Probe:
    """How much was noted and settled."""

    noted: int = 0
    settled: int = 0


def evolve(probe: Probe | None, event: ProbeNoted | ProbeSettled) -> Probe:
    """The state after a fact."""
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
    """A tenant's numbers."""

    __tablename__ = "probes"


PROBES = Stored("probe", ProbeRow, Probe, evolve)
HANDLERS = Subscriptions()
JOBS = JobRegistry()


@HANDLERS.fact(ProbeAsked, writes=lambda event: [PROBES.key(event.tenant_id)])
def asked(unit: UnitOfWork, event: ProbeAsked, _: DecisionContext) -> None:
    """Note it."""
    unit.record(PROBES, event.tenant_id, [ProbeNoted(tenant_id=event.tenant_id, number=event.number)])


@JOBS.effect(ProbeNoted)
async def settle(job: Job[ProbeNoted], _: None) -> AsyncIterator[Outcome]:
    """Call nobody, and say so: what is of interest is whether each call's outcome is recorded once."""
    said = ProbeSettled(tenant_id=job.event.tenant_id, number=job.event.number)
    key = PROBES.key(said.tenant_id)
    yield Outcome(lambda unit, _: unit.record(PROBES, key.id, [said]), writes=[key], last=True)


def service() -> Service:
    """The probe."""
    return Service("tenant", ServiceSettings, (PROBES,), lambda _context: APIRouter(), HANDLERS, JOBS)


def main() -> None:
    """Run it, as a service's own `__main__` does."""
    run(service())


async def make_tables(url: str, password: str) -> None:
    """The one table of this service; the runtime migrates its own."""
    database = Database(url, password, "probe")
    async with database.transaction() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await database.close()


def tenant(number: int) -> str:
    """The id of one of the tenants."""
    return f"ten_{uuid.uuid5(_NAMES, str(number)).hex}"


async def ask(url: str, password: str, tenants: int, numbers: Sequence[int], copy: int = 0) -> None:
    """As billing, ask every tenant these numbers. copy: tells times apart at which the same facts are published."""
    client = await connect(url, "billing", password)
    try:
        for number in numbers:
            for place in range(tenants):
                event = ProbeAsked(tenant_id=tenant(place), number=number)
                id_ = str(uuid.uuid5(_NAMES, f"{place}/{number}"))
                fact = Fact(event, id_, _WHEN, number, Origin(id_, id_, "service:billing", child(None)))
                # Another message id for each copy: the stream's own window must not be what makes it harmless.
                headers = headers_of(fact) | {"Nats-Msg-Id": f"{id_}-{copy}"}
                await client.jetstream().publish(subject_of(event), encode(event), headers=headers)
    finally:
        await client.close()
