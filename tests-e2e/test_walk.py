"""Follows docs/architecture.md: the functions that its walks name are called, in that order, by the named processes."""

import asyncio
import re
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest
from paybill_embedded.nats import NatsServer
from paybill_embedded.ports import free_port
from paybill_embedded.postgres import PostgresServer
from paybill_runtime.messaging.streams import connect, ensure
from paybill_stack.access import BusAccess, DatabaseAccess
from paybill_stack.environment import Addresses, inherited_environment, service_environment, stripe_fake_command
from paybill_stack.layout import SERVICES, STRIPE_FAKE, Layout
from paybill_stack.operator_key import ensure_operator_key
from paybill_stack.prepare import prepare
from paybill_stripe_fake.client import FakeControl

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
RECORDER = Path(__file__).with_name("call_recorder.py")
STEP = re.compile(r"^\d+\. `([\w.]+)` \((\w+)\)", re.MULTILINE)
WEBHOOK_STEPS, REQUEST_STEPS = 30, 8
TIMEOUT_S = 90


def walk(heading: str) -> list[tuple[str, str]]:
    """Returns the steps below a heading: process and function."""
    section = ARCHITECTURE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [(process, function) for function, process in STEP.findall(section)]


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Runs the journey once; returns the recorded calls of each process, and when request and payment were sent."""
    layout = Layout(tmp_path_factory.mktemp("walk"))
    with PostgresServer(layout.root) as postgres, NatsServer(layout.root) as nats:
        postgres.ensure_databases()
        asyncio.run(_ensure_streams(nats))
        prepare(layout)
        key = ensure_operator_key(layout.api_keys, datetime.now(UTC), replace=True)
        addresses = Addresses(
            BusAccess(nats.url, layout.credentials),
            DatabaseAccess("127.0.0.1", postgres.port, layout.credentials),
            {name: free_port() for name in (*SERVICES, STRIPE_FAKE)},
        )
        with _processes(layout, addresses):
            sent = _journey(layout, addresses, key)
    return {name: _recorded(layout, name) for name in SERVICES}, sent


def test_a_tenant_request_takes_the_documented_steps(calls) -> None:
    recorded, (requested, _) = calls
    steps = walk("A tenant request")

    assert 0 < len(steps) <= REQUEST_STEPS
    assert _missing(steps, recorded, requested) == []


def test_a_webhook_takes_the_documented_steps_to_an_active_tenant(calls) -> None:
    recorded, (_, paid) = calls
    steps = walk("A webhook, from the socket to an active tenant")

    assert 0 < len(steps) <= WEBHOOK_STEPS
    assert _missing(steps, recorded, paid) == []


def _missing(steps, recorded, since: int) -> list[str]:
    """Returns the first step that no call matches after the steps before it; empty when all are found in order."""
    for number, (process, function) in enumerate(steps, 1):
        found = next((when for when, name in recorded[process] if when >= since and name == function), None)
        if found is None:
            return [f"step {number}: {process} did not call {function} after the steps before it"]
        since = found
    return []


def _journey(layout: Layout, addresses: Addresses, key: str) -> tuple[int, int]:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=addresses.url("tenant"), headers=headers, trust_env=False) as client:
        body = {"slug": "acme", "name": "Acme", "plan": "starter", "region": "eu-central"}
        body |= {"contact_email": "ops@acme.example"}
        # A service is ready before it has read plans and regions; until then it answers 503.
        _until(lambda: client.post("/v1/tenants/quote", json=body).status_code != HTTPStatus.SERVICE_UNAVAILABLE)
        requested = time.monotonic_ns()
        created = client.post("/v1/tenants", json=body).raise_for_status().json()
        account = f"{addresses.url('billing')}/v1/tenants/{created['id']}/account"
        checkout = _until(lambda: client.get(account).json().get("checkout_url"))
        with FakeControl(addresses.url(STRIPE_FAKE), layout.stripe_api_key.read_text().strip()) as control:
            paid = time.monotonic_ns()
            control.pay_checkout(checkout.rpartition("/")[2])
        _until(lambda: client.get(f"/v1/tenants/{created['id']}").json()["status"] == "active")
    return requested, paid


@contextmanager
def _processes(layout: Layout, addresses: Addresses):
    names = layout.root / "names"
    steps = STEP.findall(ARCHITECTURE)
    names.write_text("\n".join(function for function, _ in steps))
    with ExitStack() as stack:
        log = stack.enter_context(layout.log("walk").open("w"))

        def start(command, environment) -> None:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)

        start(stripe_fake_command(layout, addresses), inherited_environment())
        for name in SERVICES:
            command = [
                sys.executable,
                str(RECORDER),
                str(names),
                str(layout.root / f"{name}.calls"),
                f"paybill_{name.replace('-', '_')}",
            ]
            start(command, service_environment(name, layout, addresses))
        for name in SERVICES:
            _until(lambda name=name: _is_ready(addresses.url(name)))
        yield


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).json().get("status") == "ok"
    except (httpx.HTTPError, ValueError):
        return False


def _recorded(layout: Layout, name: str) -> list[tuple[int, str]]:
    lines = (layout.root / f"{name}.calls").read_text().splitlines()
    return [(int(when), function) for when, _, function in (line.partition(" ") for line in lines)]


def _until(condition):
    deadline = time.monotonic() + TIMEOUT_S
    while not (result := condition()):
        assert time.monotonic() < deadline, "the journey did not end in time"
        time.sleep(0.05)
    return result


async def _ensure_streams(nats: NatsServer) -> None:
    steward = await connect(nats.url, "steward", nats.password("steward"))
    await ensure(steward)
    await steward.close()
