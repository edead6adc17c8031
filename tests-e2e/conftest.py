"""Fixtures: a stack with replicas for the crash tests, and an event of billing for tests of single services."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from faults.fleet import Fleet
from faults.fork_server import ForkServer
from paybill_contracts.billing import AccountRegistered
from paybill_contracts.personal import Personal


@pytest.fixture
def registered() -> Callable[..., AccountRegistered]:
    """Returns `registered(tenant_id, retention_s)`; alternating retentions make a repeated event visible."""

    def event(tenant_id: str, retention_s: int = 86_400) -> AccountRegistered:
        return AccountRegistered(
            tenant_id=tenant_id,
            plan="pro",
            plan_version=1,
            provider="stripe",
            retention_s=retention_s,
            name="Acme",
            contact_email=Personal[str](key=f"billing/{tenant_id}", sealed="A" * 60),
        )

    return event


@pytest.fixture
def stack(tmp_path):
    """Starts a stack and returns its description by `paybill up --json`; the supervisor restarts killed processes."""
    data_dir = tmp_path / "data"
    process = subprocess.Popen(
        [sys.executable, "-m", "paybill_cli", "up", "--json", "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line, "the stack did not start"
        yield data_dir, json.loads(line)["data"]
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture
def fleet(stack, tmp_path):
    data_dir, described = stack
    with ForkServer(tmp_path / "replicas") as fork_server:
        addresses = {part["name"]: part["address"] for part in described["parts"]}
        made = Fleet(data_dir, addresses, described["operator_key"], fork_server)
        made.store_environments()
        yield made
