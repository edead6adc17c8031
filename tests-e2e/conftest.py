"""A stack with a fleet of replicas, for the suites that kill; and what others say in tests of single services."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from faults.fleet import Fleet
from faults.nursery import Nursery
from paybill_contracts.billing import AccountRegistered
from paybill_contracts.personal import Personal


@pytest.fixture
def registered() -> Callable[..., AccountRegistered]:
    """`registered(tenant_id, retention_s)`: heard again after another one it is news again, so that twice shows."""

    def said(tenant_id: str, retention_s: int = 86_400) -> AccountRegistered:
        return AccountRegistered(
            tenant_id=tenant_id,
            plan="pro",
            plan_version=1,
            provider="stripe",
            retention_s=retention_s,
            name="Acme",
            contact_email=Personal[str](key=f"billing/{tenant_id}", sealed="A" * 60),
        )

    return said


@pytest.fixture
def stack(tmp_path):
    """A running stack as `paybill up --json` describes it; the supervisor starts what is killed again."""
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
    with Nursery(tmp_path / "replicas") as nursery:
        addresses = {part["name"]: part["address"] for part in described["parts"]}
        made = Fleet(data_dir, addresses, described["operator_key"], nursery)
        made.remember_environments()
        yield made
