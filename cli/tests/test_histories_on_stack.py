"""Random histories of tenants through a running stack: its states end as those of Stripe, and violate no invariant.

PAYBILL_TEST_STACK_HISTORIES is their number (default 4), PAYBILL_TEST_STACK_HISTORIES_SEED repeats a run, whose seed is
printed. The histories in one process (tests-e2e/test_histories.py) are many more, with a virtual clock.
"""

import faulthandler
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from random import Random
from typing import Any

import httpx
import pytest
from paybill_cli.exit_codes import ExitCode
from paybill_stripe_fake.client import FakeControl, FakeControlError

HISTORIES = int(os.environ.get("PAYBILL_TEST_STACK_HISTORIES", "4"))
SEED = int(os.environ.get("PAYBILL_TEST_STACK_HISTORIES_SEED", "0")) or secrets.randbelow(2**32)
ACTIONS = 7
TIMEOUT_S = 120
RUNNING = {"active", "trialing", "past_due", "unpaid", "paused"}
ENTITLING = {"trialing", "active", "grace"}
SERVICES = ("tenant", "billing", "provisioner", "agent-gateway")

pytestmark = pytest.mark.e2e


class Journey:
    """One tenant of the stack, and its customer at the fake of Stripe."""

    def __init__(self, random: Random, run: Callable[..., Any], stack: Any, fake: FakeControl, tenant: Any) -> None:
        self.random = random
        self._run = run
        self._stack = stack
        self._fake = fake
        self.tenant = tenant
        self.slug = tenant["slug"]
        self.customer = self.account()["customer"]
        self.done: list[str] = []

    def act(self) -> None:
        """Does something random. What is refused does not happen."""
        actions: list[Callable[[], object]] = [
            self.pay,
            self.fail_renewal,
            self.recover,
            self.renew,
            self.pause,
            self.end,
            self.refund,
            self.dispute,
            self.change,
            self.hold,
        ]
        action = self.random.choices(actions, [3, 2, 2, 1, 2, 1, 1, 1, 2, 2])[0]
        self.done.append(action.__name__)
        try:
            action()
        except (FakeControlError, httpx.HTTPStatusError):
            self.done[-1] += " (refused)"

    def pay(self) -> None:
        """The customer pays at a checkout, which an operator opens."""
        opened = self._run("tenant", "checkout", self.slug, "--json")
        if opened.code == ExitCode.OK:
            self._fake.pay_checkout(opened.data["checkout"])

    def fail_renewal(self) -> None:
        self._fake.set_payment(self.customer, "fail")
        self.renew()

    def recover(self) -> None:
        self._fake.set_payment(self.customer, "succeed")
        for invoice in self.at_stripe("invoices", customer=self.customer, status="open"):
            self._fake.pay_invoice(invoice["id"])

    def renew(self) -> None:
        for subscription in self._running():
            self._fake.renew(subscription["id"])

    def pause(self) -> None:
        """Pauses the collection of payments at Stripe, or resumes it."""
        for subscription in self._running():
            paused = subscription["pause_collection"] is not None
            changes = {"pause_collection": ""} if paused else {"pause_collection[behavior]": "void"}
            self._stripe("POST", f"subscriptions/{subscription['id']}", data=changes)

    def end(self) -> None:
        for subscription in self._running():
            self._stripe("DELETE", f"subscriptions/{subscription['id']}")

    # A quote does not know reversals of payments (docs/invariants.md): a history has changes or reversals, not both.

    def refund(self) -> None:
        for charge in self._reversible()[:1]:
            self._stripe("POST", "refunds", data={"charge": charge["id"], "amount": "100"})

    def dispute(self) -> None:
        for charge in self._reversible()[-1:]:
            self._fake.close_dispute(self._fake.dispute(charge["id"])["id"], self.random.choice(["won", "lost"]))

    def change(self) -> None:
        if {"refund", "dispute"} & set(self.done):
            return
        options = self.random.choice([["--quantity", "3"], ["--quantity", "1"], ["--plan", "team"]])
        self._run("subscription", "change", self.slug, *options, "--reason", "asked by phone", "--yes", "--json")

    def hold(self) -> None:
        verb = self.random.choice(
            [["suspend", self.slug, "--reason", "audit", "--yes"], ["resume", self.slug, "--yes"]]
        )
        self._run("tenant", *verb, "--json")

    def differences(self) -> Iterator[str]:
        """Returns what disagrees with Stripe, and which invariants a service reports as violated."""
        account, tenant = self.account(), self._get("tenant", f"tenants/{self.tenant['id']}")
        here = {each["provider_subscription"]: each for each in account["subscriptions"]}
        for subscription in self.at_stripe("subscriptions", customer=self.customer, status="all"):
            status, known = subscription["status"], here.get(subscription["id"], {"provider_status": "unknown"})
            if known["provider_status"] != status:
                yield f"{subscription['id']} is {status}, and {known['provider_status']} here"
        allows = account["entitlements"] is not None and account["entitlements"]["allows_access"]
        if allows != any(each["access"] in ENTITLING for each in here.values()):
            yield f"entitlements allow {allows}"
        held = [hold["origin"] for hold in tenant["holds"]]
        if allows and (tenant["status"] != ("suspended" if held else "active") or "billing" in held):
            yield f"the tenant is {tenant['status']}, with holds of {held or 'nobody'}"
        if not allows and here and tenant["status"] == "active":
            yield "the tenant is active without access"
        for service in SERVICES:
            for each in self._get(service, "violations", tenant=self.tenant["id"], status="open")["violations"]:
                yield f"{service} reports invariant {each['number']}: {each['left']}, and {each['right']}"

    def account(self) -> Any:
        """Returns the account as billing shows it."""
        return self._get("billing", f"tenants/{self.tenant['id']}/account")

    def at_stripe(self, kind: str, **query: str) -> list[Any]:
        """Returns a list of the customer's objects at Stripe."""
        return list(self._stripe("GET", kind, params=query | {"limit": "100"})["data"])

    def _running(self) -> list[Any]:
        found = self.at_stripe("subscriptions", customer=self.customer, status="all")
        return [each for each in found if each["status"] in RUNNING]

    def _reversible(self) -> list[Any]:
        if "change" in self.done:
            return []
        found = self.at_stripe("charges", customer=self.customer)
        return [each for each in found if each["paid"] and not each["disputed"] and not each["amount_refunded"]]

    def _stripe(self, method: str, path: str, **more: Any) -> Any:
        key = (self._stack.data_dir / "credentials" / "stripe-api-key").read_text().strip()
        return self._send(method, f"{self._stack.url('stripe_fake')}/v1/{path}", key, **more)

    def _get(self, service: str, path: str, **query: str) -> Any:
        return self._send("GET", f"{self._stack.url(service)}/v1/{path}", self._stack.key, params=query)

    def _send(self, method: str, url: str, key: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.request(method, url, headers=headers, trust_env=False, timeout=20, **more)
        return answer.raise_for_status().json()


def eventually(probe: Callable[[], Any], is_reached: Callable[[Any], bool]) -> Any:
    """Returns the result of `probe` once it is reached, or the last one after the time limit."""
    end = time.monotonic() + TIMEOUT_S
    while not is_reached(found := probe()) and time.monotonic() < end:
        time.sleep(0.2)
    return found


@pytest.fixture
def journeys(on_stack, real_stack, customers) -> Iterator[list[Journey]]:
    """Signs up the tenants; the faults of webhooks end with the test."""
    sys.stdout.write(f"{HISTORIES} histories of seed {SEED}\n")
    with ExitStack() as stack:
        fake = stack.enter_context(customers.fake())
        stack.callback(fake.faults, duplicate=1, delay_s=0, shuffle=False, lose=0)
        tenants = [customers.sign_up() for _ in range(HISTORIES)]
        yield [Journey(Random(f"{SEED}/{i}"), on_stack, real_stack, fake, each) for i, each in enumerate(tenants)]


def test_random_histories_through_a_stack_end_with_the_states_of_stripe(on_stack, customers, journeys) -> None:
    faulthandler.dump_traceback_later(TIMEOUT_S * (1 + HISTORIES), exit=True, file=sys.__stderr__)
    network = Random(SEED)
    for journey in journeys:
        journey.pay()
    with customers.fake() as fake:
        for _ in range(ACTIONS):
            for journey in journeys:
                fault: dict[str, Any] = network.choice([{}, {}, {"duplicate": 2}, {"delay_s": 2.0}, {"lose": 2}])
                fake.faults(**({"duplicate": 1, "delay_s": 0.0, "shuffle": True, "lose": 0} | fault))
                journey.act()
        fake.faults(duplicate=1, delay_s=0, shuffle=False, lose=0)
        fake.wait_delivered()
    on_stack("provider", "reconcile", "--json")

    left = eventually(
        lambda: {each.slug: (found, each.done) for each in journeys if (found := list(each.differences()))},
        lambda found: not found,
    )

    assert left == {}
