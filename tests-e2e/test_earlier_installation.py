"""A data directory of a version without the agent gateway starts, and the gateway follows the tenants in its log."""

import asyncio
import json
import time

import httpx
import pytest
from laptop_stack import running
from paybill_embedded.nats import NatsServer
from paybill_embedded.postgres import PostgresServer
from recorded_servers import FACTS, recorded, restore

pytestmark = pytest.mark.e2e
TIMEOUT_S = 60


@pytest.fixture
def earlier(tmp_path):
    """Returns a data directory with servers of the earlier version, which had no agent gateway."""
    folder = tmp_path / "data"
    with PostgresServer(folder) as postgres, NatsServer(folder) as nats:
        postgres.ensure_databases(tuple(FACTS))
        asyncio.run(restore(postgres, nats))
        (folder / "ports.json").write_text(json.dumps({"postgres": postgres.port, "nats": nats.port}))
    (folder / "credentials" / "nats-agent-gateway").unlink()
    return folder


def test_the_agent_gateway_of_an_earlier_installation_knows_its_tenants(earlier) -> None:
    facts = [json.loads(line) for line in recorded("events.jsonl").splitlines()]
    signed_up = [fact["headers"]["pb-tenant"] for fact in facts if ".tenant.tenant_requested." in fact["subject"]]

    with running(earlier) as variables:
        services = json.loads((earlier / "stack.json").read_text())["services"]
        headers = {"Authorization": f"Bearer {variables['PAYBILL_API_KEY']}"}
        with httpx.Client(base_url=services["agent-gateway"]["url"], headers=headers, trust_env=False) as gateway:
            deadline = time.monotonic() + TIMEOUT_S
            while True:
                shown = [gateway.get(f"/v1/tenants/{tenant}/agent-access") for tenant in signed_up]
                lag = gateway.get("/v1/operations").json()["lag"]
                if all(answer.is_success for answer in shown) and not any(lag.values()):
                    break
                assert time.monotonic() < deadline, (lag, [answer.text for answer in shown])
                time.sleep(0.2)
    statuses = {answer.json()["status"] for answer in shown}

    assert {"running", "leaving"} <= statuses
    assert (earlier / "credentials" / "pg-agent-gateway").stat().st_mode & 0o077 == 0
    assert (earlier / "identities" / "agent-gateway.key").exists()
