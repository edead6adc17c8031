"""Paybill's hop: a service with one handler on the common runtime, as a separate process."""

import asyncio
import json
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fastapi import APIRouter
from paybill_contracts.personal import Personal
from paybill_embedded.signing_keys import make_root, make_signing_key
from paybill_runtime.app import Service
from paybill_runtime.database.pool import Database
from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.security.identity import make_identity
from paybill_runtime.serving import serve
from paybill_runtime.settings import ServiceSettings
from sqlalchemy import MetaData
from sqlalchemy.orm import registry

from paybill_bench.access import ServerAccess, from_command_line
from paybill_bench.facts import HopMetered, HopNoted


@dataclass(frozen=True, slots=True)
class Hop:
    """A tenant's total usage so far."""

    tenant_id: str
    plan: str
    meter: str
    quantity: int
    region: str
    until: datetime
    contact: Personal[str]


def note(hop: Hop | None, event: HopMetered) -> list[HopNoted]:
    """Returns the fact with the new total."""
    total = event.quantity + (hop.quantity if hop is not None else 0)
    return [HopNoted(**dict(event) | {"quantity": total})]


def evolve(_: Hop | None, event: HopNoted) -> Hop:
    """Returns the state after a fact."""
    return Hop(
        tenant_id=event.tenant_id,
        plan=event.plan,
        meter=event.meter,
        quantity=event.quantity,
        region=event.region,
        until=event.period_end,
        contact=event.contact,
    )


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """Rows of this service."""


class HopRow(Base, table=True):
    """Usage of one tenant."""

    __tablename__ = "hops"


HOPS = Stored("hop", HopRow, Hop, evolve)
HANDLERS = Subscriptions()


@HANDLERS.fact(HopMetered, writes=lambda event: [HOPS.key(event.tenant_id)])
def metered(unit: UnitOfWork, event: HopMetered, _: DecisionContext) -> None:
    """Adds the usage to the total."""
    unit.record(HOPS, event.tenant_id, note(unit.get(HOPS, event.tenant_id), event))


UNSIGNED = 1_000_000_000
"""The facts that the benchmark itself publishes have no signature."""


def service() -> Service:
    """Returns the service; it runs with user and database role of the tenant service."""
    return Service(
        name="tenant",
        settings=ServiceSettings,
        states=(HOPS,),
        router=lambda _: APIRouter(),
        subscriptions=HANDLERS,
    )


def settings(access: ServerAccess) -> ServiceSettings:
    """Returns the settings for `access`; other files are in the folder of the NATS password."""
    folder = Path(access.nats_password_file).parent
    make_identity(folder / "identities", access.nats_user)
    make_signing_key(folder / "identities", access.nats_user, make_root(folder / "steward"))
    keys = folder / "api-keys.json"
    keys.write_text(json.dumps({"keys": []}), encoding="utf-8")
    return ServiceSettings(
        database_url=access.database_url,
        database_password_file=Path(access.database_password_file),
        nats_url=access.nats_url,
        nats_user=access.nats_user,
        nats_password_file=Path(access.nats_password_file),
        api_keys_file=keys,
        identity_dir=folder / "identities",
        secrets_dir=folder,
        signed_from_sequence=UNSIGNED,
        log_level="WARNING",
    )


async def create_tables(access: ServerAccess) -> None:
    """Creates the table of this service; the runtime migrates its own."""
    database = Database(access.database_url, access.database_password, "bench")
    async with database.transaction() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await database.close()


async def run(access: ServerAccess) -> int:
    """Runs as every service does; returns the exit code."""
    await create_tables(access)
    return await serve(service(), settings(access))


if __name__ == "__main__":
    sys.exit(asyncio.run(run(from_command_line())))
