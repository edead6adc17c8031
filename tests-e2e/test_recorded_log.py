"""Verifies that a log and databases recorded by an earlier version replay to the same tables."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from paybill_embedded.nats import NatsServer
from paybill_embedded.postgres import PostgresServer
from paybill_runtime.testing.signing import make_test_identity
from recorded_servers import FACTS, execute, restore

EQUAL, DIFFERENT = 0, 9


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Runs a NATS server with the recorded stream, and a PostgreSQL server with the recorded databases."""
    folder = tmp_path_factory.mktemp("recorded-log")
    with PostgresServer(folder) as postgres, NatsServer(folder) as nats:
        postgres.ensure_databases()
        asyncio.run(restore(postgres, nats))
        yield postgres, nats


@pytest.fixture
def run(servers, tmp_path):
    """`run(service, *arguments)` runs a command of a service on the recorded log; returns its result."""
    postgres, nats = servers

    make_test_identity(tmp_path, "tenant")

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
            "SIGNED_FROM_SEQUENCE": 1_000_000,
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
    asyncio.run(execute(postgres, "tenant", "UPDATE tenants SET state = jsonb_set(state, '{region}', '\"x\"')"))
    altered = run("tenant", "replay")
    run("tenant", "replay", "--rebuild")

    assert altered.returncode == DIFFERENT
