"""Customers are served while every process of the stack is killed repeatedly: nothing is lost or repeated.

CONTRIBUTING.md describes longer runs. The printed seed repeats the random plan; timing on the machine is not part of
it,
so the same seed gives the same plan, not the same run.
"""

import asyncio
import faulthandler
import os
import random
import secrets
import subprocess
import sys
import time
from contextlib import suppress

import httpx
from faults import external_effects, invariants
from faults.fleet import SERVICES, Fleet
from faults.invariant_monitor import InvariantMonitor
from faults.process_killer import RELAY_FAILPOINTS, ProcessKiller
from paybill_runtime.testing import cancel
from paybill_stripe_fake.client import FakeControl

TENANTS = int(os.environ.get("PAYBILL_TEST_KILLS_TENANTS", "50"))
KILLS = int(os.environ.get("PAYBILL_TEST_KILLS", "60"))
SEED = int(os.environ.get("PAYBILL_TEST_KILLS_SEED", "0")) or secrets.randbelow(2**32)
ENOUGH_FOR_ALL_KINDS = 50
"""Number of kills from which on every kind must occur, whatever the seed."""
AT_ONCE = 8
"""Customers whose journey begins before their share of the kills."""
KILLING_S = 2.0 * KILLS
WITHIN_S = 120
"""Time to finish after the last kill."""
PLANS = ("starter", "team", "business")
ONCE = (
    "tenant.tenant_requested",
    "billing.account_registered",
    "billing.account_opened",
    "billing.subscription_activated",
    "provisioner.environment_planned",
    "provisioner.environment_ready",
    "tenant.tenant_activated",
)


class Customers:
    """Customers that sign up, pay and wait. Every request is idempotent and may go to any process of its service."""

    def __init__(self, fleet: Fleet, client: httpx.AsyncClient, control: FakeControl, deadline: float) -> None:
        self._fleet = fleet
        self._client = client
        self._control = control
        self._deadline = deadline
        self._rng = random.Random(SEED + 1)

    async def serve(self, number: int, slug: str) -> str:
        """Takes one customer from sign-up to active; returns the tenant's id."""
        body = {
            "slug": slug,
            "name": slug,
            "plan": PLANS[number % 3],
            "region": "eu-central",
            "contact_email": f"{slug}@x.example",
        }
        headers = {"Idempotency-Key": f"sign-up-{slug}"}
        response = await self._request("POST", "tenant", "/v1/tenants", json=body, headers=headers)
        assert response.status_code == 202, response.text
        id_ = response.json()["id"]
        account = await self._wait_for("billing", f"/v1/tenants/{id_}/account", lambda found: found.get("checkout_url"))
        await asyncio.to_thread(self._control.pay_checkout, account["checkout_url"].rpartition("/")[2])
        await self._wait_for("tenant", f"/v1/tenants/{id_}", lambda found: found.get("status") == "active")
        return id_

    async def _request(self, method: str, service: str, path: str, **more) -> httpx.Response:
        """Returns the first response without a server error, across outages of any part."""
        while True:
            response = None
            with suppress(httpx.HTTPError, OSError):
                url = self._rng.choice(self._fleet.urls(service))
                response = await self._client.request(method, f"{url}{path}", **more)
                if response.status_code < 500 and response.status_code != 429:
                    return response
            assert time.monotonic() < self._deadline, f"{method} {path}: gave up: {response and response.text}"
            await asyncio.sleep(0.2)

    async def _wait_for(self, service: str, path: str, condition) -> dict:
        """Returns the document, once it satisfies `condition`."""
        while True:
            found = await self._request("GET", service, path)
            if found.status_code == 200 and condition(found.json()):
                return found.json()
            assert time.monotonic() < self._deadline, f"{path} stays {found.text[:400]}"
            await asyncio.sleep(0.2)


async def _journeys(customers: Customers, killer: ProcessKiller) -> dict[str, str]:
    """Starts all customers, spread over the kills; returns their plans by their ids."""

    async def one(number: int) -> str:
        while killer.progress < (number - AT_ONCE) / TENANTS:  # noqa: ASYNC110  # other processes set it
            await asyncio.sleep(0.1)
        return await customers.serve(number, f"tenant-{number}")

    ids = await asyncio.gather(*(one(number) for number in range(TENANTS)))
    return {id_: PLANS[number % 3] for number, id_ in enumerate(ids)}


async def _killing(killer: ProcessKiller) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(KILLING_S):
            await killer.run()


async def test_every_customer_is_served_once_while_processes_are_killed(fleet, capsys):
    # Pytest ends the process when one test takes two minutes; this test may be configured to take longer.
    faulthandler.dump_traceback_later(KILLING_S + 3 * WITHIN_S, exit=True, file=sys.__stderr__)
    killer = ProcessKiller(fleet, random.Random(SEED), KILLS)
    invariant_monitor = InvariantMonitor(fleet)
    monitoring = asyncio.create_task(invariant_monitor.run())
    key = {"Authorization": f"Bearer {fleet.operator_key}"}
    began = time.monotonic()
    deadline = began + KILLING_S + WITHIN_S
    async with httpx.AsyncClient(headers=key, timeout=5) as client:
        with FakeControl(fleet.addresses["stripe-fake"], fleet.password("stripe-api-key")) as control:
            async with asyncio.TaskGroup() as group:
                group.create_task(_killing(killer))
                served = group.create_task(_journeys(Customers(fleet, client, control, deadline), killer))
    plans = served.result()
    await cancel(monitoring)
    left = await invariant_monitor.wait_until_idle(WITHIN_S)
    facts = invariant_monitor.log.facts
    wrong = [
        *invariant_monitor.wrong,
        *left,
        *invariants.once_each(facts, ONCE, plans),
        *await external_effects.environments(fleet, plans),
        *await external_effects.customers(fleet.addresses["stripe-fake"], fleet.password("stripe-api-key"), plans),
    ]
    await invariant_monitor.log.close()
    replay = [sys.executable, "-m", "paybill_cli", "replay", "--verify", "--data-dir", str(fleet.data_dir)]
    replayed = await asyncio.to_thread(subprocess.run, replay, capture_output=True, text=True, check=False)
    with capsys.disabled():
        sys.stdout.write(
            f"\nPAYBILL_TEST_KILLS_SEED={SEED}: {len(plans)} journeys in {time.monotonic() - began:.0f} s, "
        )
        sys.stdout.write(
            f"{len(facts)} facts, {invariant_monitor.checks} checks; killed {sum(killer.killed.values())}: "
        )
        sys.stdout.write(", ".join(f"{count} {name}" for name, count in sorted(killer.killed.items())))
        sys.stdout.write(f"; {dict(killer.done)}\n")

    assert wrong == []
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert sum(killer.killed.values()) >= KILLS
    if KILLS >= ENOUGH_FOR_ALL_KINDS:
        for kind in (("nats",), ("postgres",), SERVICES, ("relay owner", *RELAY_FAILPOINTS)):
            assert any(killer.killed[name] for name in kind), killer.killed
