"""Ten thousand webhooks, shuffled, some duplicated and some lost, while every process is killed.

Acknowledged messages are kept, nothing is processed twice, and the final state equals the provider's.
PAYBILL_TEST_STORM_EVENTS, PAYBILL_TEST_STORM_KILLS and PAYBILL_TEST_STORM_SEED change the storm; the seed is printed.
"""

import asyncio
import faulthandler
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta

import asyncpg
import httpx
import stripe
from faults.fleet import Fleet
from faults.invariant_monitor import InvariantMonitor
from faults.process_killer import ProcessKiller
from paybill_billing.providers.stripe import mappers
from paybill_runtime.testing import cancel
from paybill_stripe_fake.client import FakeControl

EVENTS = int(os.environ.get("PAYBILL_TEST_STORM_EVENTS", "10000"))
KILLS = int(os.environ.get("PAYBILL_TEST_STORM_KILLS", "30"))
SEED = int(os.environ.get("PAYBILL_TEST_STORM_SEED", "0")) or secrets.randbelow(2**32)
TENANTS = 40
DUPLICATED, LOST = 0.10, 0.05
"""Shares of all messages: sent twice, and lost on the way."""
SENDERS = 16
KILLING_S = 3.0 * KILLS
TIMEOUT_S = 180
RESUME_TIMEOUT_S = 60
REQUESTS_PER_S = 25
"""The provider's rate limit for one endpoint."""
CLOCK_STEP = timedelta(days=3)
"""Less than the dunning period, so that a customer can pay in time."""


class Account:
    """The provider's account, as its owner controls it."""

    def __init__(self, fleet: Fleet) -> None:
        self._key = fleet.password("stripe-api-key")
        self._http = httpx.Client(
            base_url=fleet.addresses["stripe-fake"], headers={"Authorization": f"Bearer {self._key}"}, timeout=30
        )
        self.control = FakeControl(fleet.addresses["stripe-fake"], self._key, timeout_s=60)
        self.events: dict[str, dict] = {}

    def collect(self) -> None:
        """Collects every new event; the provider lists those of thirty days."""
        after: dict[str, str] = {}
        while True:
            page = self._http.get("/v1/events", params={"limit": "100", **after}).raise_for_status().json()
            new = [event for event in page["data"] if event["id"] not in self.events]
            self.events |= {event["id"]: event for event in new}
            if len(new) < len(page["data"]) or not page["has_more"]:
                return
            after = {"starting_after": page["data"][-1]["id"]}

    def subscriptions(self) -> dict[str, dict]:
        """Returns all current subscriptions, by id."""
        found: dict[str, dict] = {}
        after: dict[str, str] = {}
        while True:
            query = {"limit": "100", "status": "all", **after}
            page = self._http.get("/v1/subscriptions", params=query).raise_for_status().json()
            found |= {each["id"]: each for each in page["data"]}
            if not page["has_more"]:
                return found
            after = {"starting_after": page["data"][-1]["id"]}

    def post(self, path: str, **fields: str) -> None:
        response = self._http.post(path, data=fields)
        assert response.is_success, response.text

    def delete(self, path: str) -> None:
        self._http.delete(path).raise_for_status()

    def close(self) -> None:
        self._http.close()
        self.control.close()


async def _subscribe(fleet: Fleet, client: httpx.AsyncClient, account: Account, number: int) -> None:
    """Signs up a customer, who pays."""
    slug = f"storm-{number}"
    body = {"slug": slug, "name": slug, "plan": "starter", "region": "eu-central", "contact_email": f"{slug}@x.example"}
    response = await client.post(f"{fleet.addresses['tenant']}/v1/tenants", json=body)
    assert response.status_code == 202, response.text
    url = f"{fleet.addresses['billing']}/v1/tenants/{response.json()['id']}/account"

    async def account_when(condition) -> dict:
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                response = await client.get(url)
                if response.status_code == 200 and condition(response.json()):
                    return response.json()
                await asyncio.sleep(0.1)

    opened = await account_when(lambda found: found["checkout_url"])
    await asyncio.to_thread(account.control.pay_checkout, opened["checkout_url"].rpartition("/")[2])
    await account_when(lambda found: found["subscriptions"])


def _generate_events(account: Account, rng: random.Random) -> None:
    """Advances the clock while customers change subscriptions and cards fail, until there are enough events."""
    cancelled = 0
    while len(account.events) < EVENTS:
        active = {id_: each for id_, each in account.subscriptions().items() if each["status"] != "canceled"}
        assert active, "every customer has cancelled before there are enough events"
        for id_, found in active.items():
            match rng.choices(("nothing", "seats", "card", "cancel"), (5, 3, 1, 0.2))[0]:
                case _ if found["status"] != "active":
                    account.control.set_payment(found["customer"], rng.choice(("succeed", "succeed", "fail")))
                case "seats":
                    item = {"items[0][id]": found["items"]["data"][0]["id"]}
                    account.post(f"/v1/subscriptions/{id_}", **item, **{"items[0][quantity]": str(rng.randint(1, 99))})
                case "card":
                    account.control.set_payment(found["customer"], "fail")
                case "cancel" if cancelled < TENANTS // 4:
                    account.delete(f"/v1/subscriptions/{id_}")
                    cancelled += 1
        account.control.advance_clock(CLOCK_STEP)
        account.collect()


async def _send(
    fleet: Fleet, killer: ProcessKiller, killing: asyncio.Task, events: list[dict], rng: random.Random, until: float
) -> list[str]:
    """Delivers like a provider: retries until a process accepts the message; returns the accepted ones."""
    secret = fleet.password("stripe-webhook-secrets").split()[0]
    pending = list(enumerate(events))
    pending.reverse()
    accepted: list[str] = []

    async def sender(client: httpx.AsyncClient) -> None:
        while pending:
            index, event = pending.pop()
            while not killing.done() and killer.progress < index / len(events):  # noqa: ASYNC110  # other processes set it
                await asyncio.sleep(0.05)
            body = json.dumps(event)
            while True:
                assert time.monotonic() < until, f"{len(pending)} messages were never accepted"
                signature = stripe.WebhookSignature.generate_signature_header(body, secret, int(time.time()))
                with suppress(httpx.HTTPError):
                    url = rng.choice(fleet.urls("billing"))
                    headers = {"stripe-signature": signature, "content-type": "application/json"}
                    response = await client.post(f"{url}/webhooks/stripe", content=body, headers=headers)
                    if response.status_code == 200:
                        accepted.append(event["id"])
                        break
                    assert response.status_code in {500, 503}, response.text
                await asyncio.sleep(0.1)

    async with httpx.AsyncClient(timeout=5) as client:
        await asyncio.gather(*(sender(client) for _ in range(SENDERS)))
    return accepted


async def _killing(killer: ProcessKiller) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(KILLING_S):
            await killer.run()


async def _all_processed(fleet: Fleet, client: httpx.AsyncClient, within_s: float) -> float:
    """Returns the seconds until no webhook is pending."""
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while True:
            with suppress(httpx.HTTPError):
                response = await client.get(f"{fleet.addresses['billing']}/v1/webhooks/waiting")
                if response.status_code == 200 and response.json() == []:
                    return time.monotonic() - began
            await asyncio.sleep(0.2)


async def _rows(fleet: Fleet, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(fleet.database("billing"), password=fleet.password("pg-billing"))
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()


def _differences(account: Account, ours: dict[str, dict]) -> list[str]:
    """Returns differences between our state and the provider's."""
    wrong = []
    for id_, theirs in account.subscriptions().items():
        snapshot, known = mappers.subscription_snapshot(theirs), ours.get(id_)
        if known is None:
            wrong.append(f"{id_} is unknown here")
            continue
        shown = {
            "provider_status": snapshot.status,
            "quantity": snapshot.items[0].quantity,
            "period_end": snapshot.period_end and snapshot.period_end.isoformat().replace("+00:00", "Z"),
            "cancel_at": snapshot.cancel_at and snapshot.cancel_at.isoformat().replace("+00:00", "Z"),
        }
        wrong += [
            f"{id_}: {name} is {known[name]}, not {value}" for name, value in shown.items() if known[name] != value
        ]
    return wrong


async def _our_subscriptions(fleet: Fleet, client: httpx.AsyncClient) -> dict[str, dict]:
    """Returns all our subscriptions by the provider's id."""
    found: dict[str, dict] = {}
    after: dict[str, str] = {}
    while True:
        query = {"limit": "200", **after}
        page = (await client.get(f"{fleet.addresses['billing']}/v1/subscriptions", params=query)).json()
        found |= {each["provider_subscription"]: each for each in page["subscriptions"]}
        if page["next"] is None:
            return found
        after = {"after": page["next"]}


async def test_a_storm_of_messages_under_kills_ends_in_the_providers_state(fleet, capsys):
    faulthandler.dump_traceback_later(KILLING_S + 3 * TIMEOUT_S, exit=True, file=sys.__stderr__)
    rng = random.Random(SEED)
    account = Account(fleet)
    key = {"Authorization": f"Bearer {fleet.operator_key}"}
    async with httpx.AsyncClient(headers=key, timeout=10) as client:
        await asyncio.gather(*(_subscribe(fleet, client, account, n) for n in range(TENANTS)))
        await asyncio.to_thread(account.control.wait_delivered)
        await asyncio.to_thread(account.control.faults, lose=1_000_000)
        await asyncio.to_thread(_generate_events, account, rng)
        events = list(account.events.values())
        sent = [event for event in events if rng.random() >= LOST]
        sent += rng.sample(sent, int(DUPLICATED * len(sent)))
        rng.shuffle(sent)

        killer = ProcessKiller(fleet, rng, KILLS)
        invariant_monitor = InvariantMonitor(fleet)
        monitoring = asyncio.create_task(invariant_monitor.run())
        account.control.reset_calls()
        until = time.monotonic() + KILLING_S + TIMEOUT_S
        async with asyncio.TaskGroup() as group:
            killing = group.create_task(_killing(killer))
            sending = group.create_task(_send(fleet, killer, killing, sent, rng, until))
        await cancel(monitoring)
        took_s = await _all_processed(fleet, client, TIMEOUT_S)
        reconcile = [sys.executable, "-m", "paybill_cli", "provider", "reconcile", "stripe", "--json"]
        environment = os.environ | {"PAYBILL_DATA_DIR": str(fleet.data_dir), "PAYBILL_API_KEY": fleet.operator_key}
        reconciled = await asyncio.to_thread(
            subprocess.run, reconcile, env=environment, capture_output=True, text=True, check=False
        )
        await _all_processed(fleet, client, TIMEOUT_S)
        left = await invariant_monitor.wait_until_idle(TIMEOUT_S)
        known = await _our_subscriptions(fleet, client)
    acknowledged = set(sending.result())
    kept = {row["event_id"]: row for row in await _rows(fleet, "SELECT event_id, done_at FROM webhooks")}
    failed = Counter(fact.aggregate for fact in invariant_monitor.log.facts if fact.type == "billing.payment_failed")
    calls = account.control.calls()
    wrong = [*invariant_monitor.wrong, *left, *_differences(account, known)]
    account.close()
    await invariant_monitor.log.close()
    replay = [sys.executable, "-m", "paybill_cli", "replay", "--verify", "--data-dir", str(fleet.data_dir)]
    replayed = await asyncio.to_thread(subprocess.run, replay, capture_output=True, text=True, check=False)
    with capsys.disabled():
        sys.stdout.write(f"\nPAYBILL_TEST_STORM_SEED={SEED}: {len(sent)} messages of {len(events)} events, ")
        sys.stdout.write(f"{len(acknowledged)} acknowledged, killed {sum(killer.killed.values())}; all processed ")
        sys.stdout.write(
            f"{took_s:.1f} s after the last kill; {calls['total']} calls, at most {calls['max_per_s']}/s\n"
        )

    assert wrong == []
    assert sorted(acknowledged - kept.keys()) == []
    assert [id_ for id_ in acknowledged if kept[id_]["done_at"] is None] == []
    assert reconciled.returncode in {0, 1}, reconciled.stderr
    assert max(failed.values(), default=1) == 1
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert {each["path"]: each["max_per_s"] for each in calls["endpoints"] if each["max_per_s"] > REQUESTS_PER_S} == {}


async def test_a_killed_worker_s_subscriptions_are_resumed_by_another_replica(fleet, capsys):
    account = Account(fleet)
    key = {"Authorization": f"Bearer {fleet.operator_key}"}
    async with httpx.AsyncClient(headers=key, timeout=10) as client:
        await _subscribe(fleet, client, account, 0)
        (id_,) = account.subscriptions()
        fleet.join("billing")
        await asyncio.to_thread(account.control.wait_delivered)
        await _all_processed(fleet, client, TIMEOUT_S)
        account.control.reset_calls()
        account.control.delay_calls(60, path="/v1/subscriptions/")
        await asyncio.to_thread(account.control.renew, id_)
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                worker = await fleet.lease_owner("billing", "webhooks")
                if worker is not None and account.control.calls()["total"]:
                    break
                await asyncio.sleep(0.1)

        os.kill(worker, signal.SIGKILL)
        killed_at = time.monotonic()
        account.control.delay_calls(0)
        period = account.subscriptions()[id_]["items"]["data"][0]["current_period_end"]

        async with asyncio.timeout(RESUME_TIMEOUT_S):
            while True:
                with suppress(httpx.HTTPError):
                    known = (await _our_subscriptions(fleet, client))[id_]
                    if datetime.fromisoformat(known["period_end"]).timestamp() == period:
                        break
                await asyncio.sleep(0.1)
    account.close()
    with capsys.disabled():
        sys.stdout.write(f"\nresumed {time.monotonic() - killed_at:.1f} s after the kill\n")
