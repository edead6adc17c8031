"""Fixtures: the local driver on a real PostgreSQL, and the running service."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paybill_contracts.kinds import Column, Table
from paybill_embedded.postgres import PostgresServer
from paybill_provisioner.app import service
from paybill_runtime.security.identity import Identity
from paybill_runtime.security.secrets import FileSecrets
from paybill_runtime.testing.signing import make_test_identity

sys.path.append(str(Path(__file__).parent))

from blueprint_samples import blueprint_text
from driver_harness import DRIVER, DriverHarness
from provisioner_samples import events_about_new_tenant

_regions = count(1)


@pytest.fixture
async def harness(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[DriverHarness]:
    """Returns the driver in a region of this test."""
    identities = tmp_path / "identities"
    for name in ("provisioner", "operator", "agent-gateway"):
        make_test_identity(identities, name)
    secrets = FileSecrets(tmp_path / "secrets", Identity.load(identities, "provisioner"))
    columns = (Column(name="id", type="text"), Column(name="body", type="jsonb"))
    table = Table(name="documents", columns=columns)
    created = DriverHarness(postgres, f"region-{next(_regions)}", tmp_path / "local", secrets, None, (table,))  # type: ignore[arg-type]
    created.driver = created.new_driver()
    yield created
    await asyncio.wait_for(created.driver.close(), 60)


@pytest.fixture
def settings(harness: DriverHarness, tmp_path: Path) -> dict[str, Any]:
    """Returns the settings of a service with one region and three placements."""
    blueprint = tmp_path / "blueprints.yaml"
    blueprint.write_text(blueprint_text(harness.region))
    return {
        "blueprints_file": blueprint,
        "local_database_url": harness.postgres.url(DRIVER, "postgres"),
        "local_database_password_file": harness.postgres.password_file(DRIVER),
        "local_dir": harness.directory,
        # The tests of these checks have periods of their own.
        "isolation_every_s": 3600,
        "isolation_trusted_s": 0,
        "drift_every_s": 604_800,
        "identity_dir": tmp_path / "identities",
        "secrets_dir": tmp_path / "secrets",
    }


@pytest.fixture
async def provisioner(start: Any, settings: dict[str, Any]) -> Any:
    """Returns the running service."""
    return await start(service(), **settings)


@pytest.fixture
def about(harness: DriverHarness) -> Callable[..., SimpleNamespace]:
    """Returns a factory of other services' events about a new tenant."""
    return partial(events_about_new_tenant, harness.region)
