"""Customers are served while every process of the stack is killed again and again: nothing lost, nothing twice.

CONTRIBUTING.md says how to make it last longer. What the dice decide is printed as a seed; what the machine decides is
not in it, so the same seed means the same plan and not the same run.
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
from faults import oracle, outside
from faults.fleet import SERVICES, Fleet
from faults.killer import OF_THE_RELAY, Killer
from faults.watch import Watch
from paybill_stripe_fake.client import FakeControl

TENANTS = int(os.environ.get("PAYBILL_KILLS_TENANTS", "50"))
KILLS = int(os.environ.get("PAYBILL_KILLS", "60"))
SEED = int(os.environ.get("PAYBILL_KILLS_SEED", "0")) or secrets.randbelow(2**32)
ENOUGH_FOR_ALL = 50
"""Kills among which there is each kind, whatever the dice say."""
AT_ONCE = 8
"""Customers whose journey begins before its share of the killing."""
KILLING_S = 2.0 * KILLS
WITHIN_S = 60
"""For what is left to do once nobody is killed any more."""
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
    """They sign up, pay and wait. Whatever they ask is safe to ask again, of any process that serves it."""

    def __init__(self, fleet: Fleet, client: httpx.AsyncClient, control: FakeControl, deadline: float) -> None:
        self._fleet = fleet
        self._client = client
        self._control = control
        self._deadline = deadline
        self._dice = random.Random(SEED + 1)

    async def serve(self, number: int, slug: str) -> str:
        """One customer from sign-up to active; the tenant's id."""
        body = {
            "slug": slug,
            "name": slug,
            "plan": PLANS[number % 3],
            "region": "eu-central",
            "contact_email": f"{slug}@x.example",
        }
        headers = {"Idempotency-Key": f"sign-up-{slug}"}
        asked = await self._answer("POST", "tenant", "/v1/tenants", json=body, headers=headers)
        assert asked.status_code == 202, asked.text
        id_ = asked.json()["id"]
        account = await self._until("billing", f"/v1/tenants/{id_}/account", lambda found: found.get("checkout_url"))
        await asyncio.to_thread(self._control.pay_checkout, account["checkout_url"].rpartition("/")[2])
        await self._until("tenant", f"/v1/tenants/{id_}", lambda found: found.get("status") == "active")
        return id_

    async def _answer(self, method: str, service: str, path: str, **more) -> httpx.Response:
        """The first answer that is one, however often a part is away meanwhile."""
        while True:
            answer = None
            with suppress(httpx.HTTPError, OSError):
                url = self._dice.choice(self._fleet.urls(service))
                answer = await self._client.request(method, f"{url}{path}", **more)
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer
            assert time.monotonic() < self._deadline, f"{method} {path}: gave up: {answer and answer.text}"
            await asyncio.sleep(0.2)

    async def _until(self, service: str, path: str, true) -> dict:
        """The document, once it is as wanted."""
        while True:
            found = await self._answer("GET", service, path)
            if found.status_code == 200 and true(found.json()):
                return found.json()
            assert time.monotonic() < self._deadline, f"{path} stays {found.text[:400]}"
            await asyncio.sleep(0.2)


async def _journeys(customers: Customers, killer: Killer) -> dict[str, str]:
    """All customers, spread over the killing; their plans by their ids."""

    async def one(number: int) -> str:
        while killer.part < (number - AT_ONCE) / TENANTS:  # noqa: ASYNC110  # it is told by processes that die
            await asyncio.sleep(0.1)
        return await customers.serve(number, f"tenant-{number}")

    ids = await asyncio.gather(*(one(number) for number in range(TENANTS)))
    return {id_: PLANS[number % 3] for number, id_ in enumerate(ids)}


async def _killing(killer: Killer) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(KILLING_S):
            await killer.run()


async def test_every_customer_is_served_once_while_processes_are_killed(fleet, capsys):
    # Pytest ends the process when one test takes two minutes; this one may be told to.
    faulthandler.dump_traceback_later(KILLING_S + 3 * WITHIN_S, exit=True, file=sys.__stderr__)
    killer = Killer(fleet, random.Random(SEED), KILLS)
    watch = Watch(fleet)
    watching = asyncio.create_task(watch.run())
    key = {"Authorization": f"Bearer {fleet.operator_key}"}
    began = time.monotonic()
    deadline = began + KILLING_S + WITHIN_S
    async with httpx.AsyncClient(headers=key, timeout=5) as client:
        with FakeControl(fleet.addresses["stripe-fake"], fleet.password("stripe-api-key")) as control:
            async with asyncio.TaskGroup() as group:
                group.create_task(_killing(killer))
                served = group.create_task(_journeys(Customers(fleet, client, control, deadline), killer))
    plans = served.result()
    watching.cancel()
    left = await watch.until_at_rest(WITHIN_S)
    facts = watch.log.facts
    wrong = [
        *watch.wrong,
        *left,
        *oracle.once_each(facts, ONCE, plans),
        *await outside.environments(fleet, plans),
        *await outside.customers(fleet.addresses["stripe-fake"], fleet.password("stripe-api-key"), plans),
    ]
    await watch.log.close()
    replay = [sys.executable, "-m", "paybill_cli", "replay", "--verify", "--data-dir", str(fleet.data_dir)]
    replayed = await asyncio.to_thread(subprocess.run, replay, capture_output=True, text=True, check=False)
    with capsys.disabled():
        sys.stdout.write(f"\nPAYBILL_KILLS_SEED={SEED}: {len(plans)} journeys in {time.monotonic() - began:.0f} s, ")
        sys.stdout.write(f"{len(facts)} facts, looked at {watch.looked} times; killed {sum(killer.killed.values())}: ")
        sys.stdout.write(", ".join(f"{count} {name}" for name, count in sorted(killer.killed.items())))
        sys.stdout.write(f"; {dict(killer.done)}\n")

    assert wrong == []
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert sum(killer.killed.values()) >= KILLS
    if KILLS >= ENOUGH_FOR_ALL:
        for kind in (("nats",), ("postgres",), SERVICES, ("the relay's owner", *OF_THE_RELAY)):
            assert any(killer.killed[name] for name in kind), killer.killed
