"""Verifies that a log and databases recorded by an earlier version replay to the same tables.

`recorded_log` holds the stream EVENTS (323 facts of 8 tenants) and a dump of each service's database, taken from a
stack that ran sign-ups, payments, plan changes, a plan migration, licences, usage, invoices and offboarding.
"""

import asyncio
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from paybill_embedded.nats import NatsServer
from paybill_embedded.postgres import PostgresServer
from paybill_runtime.messaging.streams import connect, ensure

RECORDED = Path(__file__).with_name("recorded_log")
FACTS = {"tenant": 54, "billing": 179, "provisioner": 90}
EQUAL, DIFFERENT = 0, 9


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Runs a NATS server with the recorded stream, and a PostgreSQL server with the recorded databases."""
    folder = tmp_path_factory.mktemp("recorded-log")
    with PostgresServer(folder) as postgres, NatsServer(folder) as nats:
        postgres.ensure_databases()
        asyncio.run(_restore(postgres, nats))
        yield postgres, nats


@pytest.fixture
def run(servers, tmp_path):
    """`run(service, *arguments)` runs a command of a service on the recorded log; returns its result."""
    postgres, nats = servers

    def ran(service: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        settings = {
            "DATABASE_URL": postgres.url(service),
            "DATABASE_PASSWORD_FILE": postgres.password_file(service),
            "NATS_URL": nats.url,
            "NATS_USER": service,
            "NATS_PASSWORD_FILE": nats.password_file(service),
            "API_KEYS_FILE": tmp_path / "api-keys.json",
            "IDENTITY_DIR": tmp_path,
            "SECRETS_DIR": tmp_path,
            "LOCAL_DATABASE_URL": postgres.url(service),
            "LOCAL_DIR": tmp_path,
        }
        return subprocess.run(
            [sys.executable, "-m", f"paybill_{service}", *arguments],
            env=os.environ | {f"PAYBILL_{name}": str(value) for name, value in settings.items()},
            capture_output=True,
            text=True,
            check=False,
        )

    return ran


@pytest.mark.parametrize("service", FACTS)
def test_a_log_of_an_earlier_version_replays_to_the_same_tables(run, service) -> None:
    migration = run(service, "migrate")
    replay = run(service, "replay")

    assert migration.returncode == 0, migration.stderr
    assert replay.returncode == EQUAL, replay.stdout + replay.stderr
    assert json.loads(replay.stdout)["facts"] == FACTS[service]


@pytest.mark.parametrize("service", FACTS)
def test_tables_rebuilt_from_an_earlier_log_equal_it(run, service) -> None:
    rebuild = run(service, "replay", "--rebuild")
    replay = run(service, "replay")

    assert rebuild.returncode == EQUAL, rebuild.stdout + rebuild.stderr
    assert replay.returncode == EQUAL, replay.stdout + replay.stderr


def test_one_altered_state_of_an_earlier_version_is_found(servers, run) -> None:
    postgres, _ = servers
    asyncio.run(_execute(postgres, "tenant", "UPDATE tenants SET state = jsonb_set(state, '{region}', '\"x\"')"))
    altered = run("tenant", "replay")
    run("tenant", "replay", "--rebuild")

    assert altered.returncode == DIFFERENT


async def _restore(postgres: PostgresServer, nats: NatsServer) -> None:
    for service in FACTS:
        await _execute(postgres, service, _recorded(f"{service}.sql"))
    steward = await connect(nats.url, "steward", nats.password("steward"))
    await ensure(steward)
    await steward.close()
    publishers = {name: await connect(nats.url, name, nats.password(name)) for name in FACTS}
    for line in _recorded("events.jsonl").splitlines():
        fact = json.loads(line)
        headers = {name: value for name, value in fact["headers"].items() if not name.startswith("Nats-Expected")}
        context = fact["subject"].split(".")[3]
        stored = (
            await publishers[context].jetstream().publish(fact["subject"], fact["payload"].encode(), headers=headers)
        )
        assert stored.seq == fact["sequence"]
    for publisher in publishers.values():
        await publisher.close()


async def _execute(postgres: PostgresServer, service: str, script: str) -> None:
    connection = await asyncpg.connect(postgres.url(service), password=postgres.password(service))
    try:
        await connection.execute(script)
    finally:
        await connection.close()


def _recorded(name: str) -> str:
    return gzip.decompress((RECORDED / f"{name}.gz").read_bytes()).decode()
