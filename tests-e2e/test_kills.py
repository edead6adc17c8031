"""Customers are served while every process of the stack is killed again and again: nothing lost, nothing twice."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import httpx
import pytest
from paybill_cli.stack.layout import Layout
from paybill_contracts import billing, provisioner, tenant
from paybill_contracts.envelope import Fact, read_fact
from paybill_runtime.feed import Feed, stream_sequence
from paybill_runtime.streams import EVENTS, connect
from paybill_stripe_fake.client import FakeControl

TENANTS = 12
KILLS = 15
WITHIN_S = 180
assert all((tenant, billing, provisioner)), "importing a context makes its facts readable"
VICTIMS = ("tenant", "billing", "provisioner", "nats", "postgres")
PLANS = ("starter", "team", "business")


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


def _pid(data_dir: Path, name: str) -> int:
    """The process that runs now under this name."""
    if name == "postgres":
        return int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
    if name == "nats":
        mark = str(data_dir / "nats" / "nats-server.conf").encode()
        return next(int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if mark in p.read_bytes())
    return json.loads((data_dir / "stack.json").read_text())["services"][name]["pid"]


async def _kill_now_and_then(data_dir: Path, killed: Counter, done: asyncio.Event) -> None:
    dice = random.Random(7)
    while sum(killed.values()) < KILLS and not done.is_set():
        await asyncio.sleep(dice.uniform(0.2, 1.5))
        victim = dice.choice(VICTIMS)
        with contextlib.suppress(
            OSError, StopIteration, IndexError, TypeError
        ):  # it is dead already: being started again
            os.kill(_pid(data_dir, victim), signal.SIGKILL)
            killed[victim] += 1


async def _until_it_works(act):
    """What `act` returns, however often a part is away meanwhile; its requests are safe to send again."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            answer = await act()
        except (httpx.HTTPError, OSError):
            answer = None
        if answer is not None and answer.status_code < 500:
            return answer
        assert time.monotonic() < deadline, f"gave up: {answer and answer.text}"
        await asyncio.sleep(0.2)


async def _serve(client, urls, control, number) -> str:
    """One customer from sign-up to active; the tenant's id."""
    slug = f"tenant-{number}"
    body = {
        "slug": slug,
        "name": slug,
        "plan": PLANS[number % 3],
        "region": "eu-central",
        "contact_email": f"{slug}@x.example",
    }
    headers = {"Idempotency-Key": f"sign-up-{slug}"}
    asked = await _until_it_works(lambda: client.post(f"{urls['tenant']}/v1/tenants", json=body, headers=headers))
    assert asked.status_code == 202, asked.text
    id_ = asked.json()["id"]
    account = await _until(
        client, f"{urls['billing']}/v1/tenants/{id_}/account", lambda found: found.get("checkout_url")
    )
    await asyncio.to_thread(control.pay_checkout, account["checkout_url"].rpartition("/")[2])
    await _until(client, f"{urls['tenant']}/v1/tenants/{id_}", lambda found: found.get("status") == "active")
    return id_


async def _until(client, url, true):
    """The document at `url`, once it is as wanted."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        found = await _until_it_works(lambda: client.get(url))
        if found.status_code == 200 and true(found.json()):
            return found.json()
        assert time.monotonic() < deadline, f"{url} stays {found.text[:400]}"
        await asyncio.sleep(0.1)


async def _log(data_dir: Path) -> list[Fact]:
    stack = json.loads((data_dir / "stack.json").read_text())
    password = Layout(data_dir).root.joinpath("credentials", "nats-operator").read_text().strip()
    client = await connect(stack["nats"]["url"], "operator", password)
    feed = Feed(client, EVENTS, ["paybill.events.>"], 1)
    facts = []
    while await feed.pending():
        facts += [read_fact(m.subject, m.headers, m.data, stream_sequence(m)) for m in await feed.next(1)]
    await feed.close()
    await client.close()
    return facts


async def test_every_customer_is_served_once_while_processes_are_killed(stack):
    data_dir, described = stack
    urls = {part["name"]: part["address"] for part in described["parts"]}
    killed: Counter = Counter()
    done = asyncio.Event()
    killer = asyncio.create_task(_kill_now_and_then(data_dir, killed, done))
    key = {"Authorization": f"Bearer {described['operator_key']}"}
    fake_key = (data_dir / "credentials" / "stripe-api-key").read_text().strip()
    async with httpx.AsyncClient(headers=key, timeout=10) as client:
        with FakeControl(urls["stripe-fake"], fake_key) as control:
            ids = await asyncio.gather(*(_serve(client, urls, control, number) for number in range(TENANTS)))
        done.set()
        await killer
        for service in ("tenant", "billing", "provisioner"):
            await _until(client, f"{urls[service]}/v1/operations", lambda found: found["outbox_waiting"] == 0)
            overview = await _until(
                client, f"{urls[service]}/v1/operations", lambda found: not found["effects_pending"]
            )
            assert (overview["parked"], overview["effects_failed"]) == (0, 0), overview

    facts = await _log(data_dir)
    replay = [sys.executable, "-m", "paybill_cli", "replay", "--verify", "--data-dir", str(data_dir)]
    replayed = await asyncio.to_thread(subprocess.run, replay, capture_output=True, text=True, check=False)

    assert sum(killed.values()) >= 5, killed
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    _check(facts, ids)


def _check(facts: list[Fact], ids: list[str]) -> None:
    """Each fact once, revisions gapless and in order, each customer onboarded exactly once."""
    copies = Counter(fact.id for fact in facts)
    assert not [id_ for id_, count in copies.items() if count > 1]
    revisions = defaultdict(list)
    for fact in facts:
        revisions[fact.aggregate].append(fact.revision)
    assert not {name: seen for name, seen in revisions.items() if seen != list(range(1, len(seen) + 1))}
    once = (
        "tenant.tenant_requested",
        "billing.account_opened",
        "provisioner.environment_planned",
        "provisioner.environment_ready",
        "tenant.tenant_activated",
    )
    for wanted in once:
        served = Counter(fact.event.tenant for fact in facts if wanted == fact.event.TYPE)
        assert served == Counter(ids), wanted
