"""Random histories of a tenant, its customer and its provider violate no invariant; every violation is found.

`PAYBILL_TEST_HISTORIES` is their number, `PAYBILL_TEST_HISTORIES_SEED` repeats a run (docs/invariants.md).
"""

import faulthandler
import gc
import hashlib
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import SystemRandom
from time import perf_counter, process_time
from typing import Any

import history_actions
import pytest
from history_actions import Step, play, random_steps
from history_checks import faults_of, violations, wrong_money, wrong_states
from history_reversals import refund
from history_starts import at_rest
from history_world import TENANT, TOLERANCE, World
from paybill_contracts.changes import ChangeRefused
from paybill_contracts.payments import PaymentRefunded
from paybill_contracts.tenant import Hold, HoldOrigin, SuspensionMode
from paybill_provisioner.domain.environments import id_of
from paybill_provisioner.domain.sizes import Size
from paybill_provisioner.tables import ENVIRONMENTS
from paybill_tenant.domain.tenants import Status
from paybill_tenant.tables import TENANTS

HISTORIES = int(os.environ.get("PAYBILL_TEST_HISTORIES", "200"))
SEED = os.environ.get("PAYBILL_TEST_HISTORIES_SEED") or str(SystemRandom().getrandbits(32))
TIMEOUT_S = 120 + HISTORIES
HELD = Hold(origin=HoldOrigin.BILLING, mode=SuspensionMode.BLOCKED, reason="the subscription is suspended")


async def faults_after(steps: list[Step]) -> list[str]:
    return await faults_of(await play(steps))


async def shortest(steps: list[Step]) -> list[Step]:
    """Returns the steps that are left when none can be removed without losing the faults."""
    for place in reversed(range(1, len(steps))):
        fewer = steps[:place] + steps[place + 1 :]
        if await faults_after(fewer):
            return await shortest(fewer)
    return steps


@pytest.fixture
def without_logs() -> Iterator[None]:
    """Drops log records: pytest would format and keep those of all histories."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def few_collections() -> Iterator[None]:
    """Collects garbage rarely: the modules are none, and a history makes so much that it took a tenth of the time."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.e2e
@pytest.mark.usefixtures("without_logs", "few_collections")
async def test_random_histories_violate_no_invariant_at_rest_and_all_money_is_in_facts() -> None:
    faulthandler.dump_traceback_later(TIMEOUT_S, exit=True, file=sys.__stderr__)
    statuses: Counter[Status] = Counter()
    began, used = perf_counter(), process_time()
    for number in range(HISTORIES):
        steps = random_steps(f"{SEED}/{number}")
        world = await play(steps)
        if faults := await faults_of(world):
            few = await shortest(steps)
            pytest.fail(f"history {number} of seed {SEED}: {faults}\nthe shortest: {few}\n{await faults_after(few)}")
        statuses[world.tenant.state(TENANTS, TENANT).status] += 1
    rate, cpu_ms = HISTORIES / (perf_counter() - began), 1000 * (process_time() - used) / HISTORIES
    speed = f"{rate:.0f} each second, {cpu_ms:.0f} ms of processor time each"
    sys.stdout.write(f"{HISTORIES} histories of seed {SEED}, {speed}: {dict(statuses)}\n")

    assert {Status.ACTIVE, Status.SUSPENDED, Status.RETAINED} <= statuses.keys() or HISTORIES < 200


@pytest.mark.e2e
@pytest.mark.usefixtures("without_logs")
async def test_histories_reach_what_happens_between_a_quote_and_its_confirmation() -> None:
    codes: Counter[str] = Counter()
    for number in range(120):
        names = {"sign_up": 1, "pay": 7, "subscribe": 3}
        steps = [Step(name, number * factor) for name, factor in names.items()]
        world = await play([*steps, Step("confirm_later", number * 5), Step("confirm_later", number * 11)])
        codes.update(fact.event.code for fact in world.billing.facts if isinstance(fact.event, ChangeRefused))
        assert await faults_of(world) == []

    assert {"period_unpaid", "quote_outdated", "subscription_paused"} <= codes.keys()


async def test_usage_of_a_subscription_that_stripe_ends_during_the_poll_is_unbilled() -> None:
    """History 147 of seed 3178276138, with the actions that matter."""
    world = await play([Step("sign_up", 798723652), Step("fail_renewal", 2541386571), Step("use", 800513815)])
    before = [each["status"] for each in world.stripe.all("subscription")]

    assert await faults_of(world) == []
    assert (before, [each["status"] for each in world.stripe.all("subscription")]) == (["past_due"], ["canceled"])
    assert {number for number, _ in world.lasting} == {5}


async def test_a_tenant_without_data_is_purged_after_its_retention() -> None:
    """History 921 of seed 283339739, with the actions that matter."""
    world = await play([Step("sign_up", 1655406743), Step("leave_with_schedule", 3537027446)])

    assert await faults_of(world) == []
    assert world.tenant.state(TENANTS, TENANT).status is Status.PURGED


async def test_a_tenant_that_is_paused_before_its_plan_begins_waits_for_access_and_is_built_with_it() -> None:
    """History 637 of seed 2085307805, with the actions that matter, and the end of the pause."""
    steps = [Step("sign_up", 1718134926), Step("cancel_at_stripe", 4241472709), Step("change", 3426996673)]
    world = await play(steps)
    assert await faults_of(world) == []
    paused = world.tenant.state(TENANTS, TENANT)

    subscription = world.stripe.all("subscription")[0]["id"]
    await world.stripe.post(f"/v1/subscriptions/{subscription}", pause_collection="")

    assert await faults_of(world) == []
    assert (paused.status, paused.entitlement.allows_access) == (Status.PROVISIONING, False)
    assert world.tenant.state(TENANTS, TENANT).status is Status.ACTIVE


async def print_digest(seed: str) -> None:
    """Prints what happened in one random history. A process of its own runs it."""
    world = await play(random_steps(seed))
    faults = await faults_of(world)
    facts = [(fact.time, fact.event) for service in world.services for fact in service.facts]
    # Stripe's library makes the idempotency keys of requests, which events repeat.
    events = [{**event, "request": None} for event in world.stripe.all("event")]
    sys.stdout.write(hashlib.sha256(repr((faults, facts, events)).encode()).hexdigest())


def test_a_history_is_the_same_in_every_process() -> None:
    code = "import asyncio, test_histories; asyncio.run(test_histories.print_digest('0/1'))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in (1, 2)
    }

    assert [len(output) for output in outputs] == [64]


async def test_the_events_of_one_moment_arrive_together_within_seconds() -> None:
    world = await at_rest()
    before, began = world.stripe.all("event"), world.now

    await history_actions.subscribe(world)
    await world.run_for(60)

    created = [each["id"] for each in world.stripe.all("event")[len(before) :]]
    times = {world.context.inbox[id_].received_at for id_ in created}
    assert len(created) > 1
    assert [began < at <= began + timedelta(seconds=5) for at in times] == [True]


def violate_by_hold(world: World) -> None:
    """Places a hold of billing on a tenant that has paid."""
    change_tenant(world, status=Status.SUSPENDED, holds=(HELD,))


def violate_by_remainder(world: World) -> None:
    """Leaves a subscription behind that still charges the customer of a tenant that left."""
    entitlement = replace(world.tenant.state(TENANTS, TENANT).entitlement, allows_access=False)
    change_tenant(world, status=Status.RETAINED, entitlement=entitlement, remaining=("sub_1",))


def violate_by_failed_build(world: World) -> None:
    """Fails the environment of a tenant that has paid."""
    change_tenant(world, status=Status.PROVISION_FAILED)


def violate_by_refund(world: World) -> None:
    """Refunds more than was received."""
    refund = {"id": "re_1", "object": "refund", "status": "succeeded", "amount": 1_000_000, "currency": "eur"}
    with world.stripe.account.work():
        world.stripe.account.put(refund)


def violate_by_usage(world: World) -> None:
    """Adds a unit of usage to an invoice that nobody used."""
    invoice, line = next(
        (invoice, line)
        for invoice in world.stripe.all("invoice")
        for line in invoice["lines"]["data"]
        if line["quantity"] and line["amount"] == 3 * line["quantity"]
    )
    lines = [{**each, "quantity": each["quantity"] + (each is line)} for each in invoice["lines"]["data"]]
    with world.stripe.account.work():
        world.stripe.account.put({**invoice, "lines": {**invoice["lines"], "data": lines}})


def violate_by_size(world: World) -> None:
    """Entitles the tenant to another tier, without a pending change."""
    key = ENVIRONMENTS.key(id_of(TENANT))
    environment, revision = world.provisioner.states[key]
    other = replace(environment, desired=replace(environment.desired, size=Size("platinum", environment.plan.preset)))
    world.provisioner.states[key] = other, revision


def violate_by_wait(world: World) -> None:
    """Lets the tenant wait for an environment that should be ready."""
    change_tenant(world, status=Status.PROVISIONING, expected_by=world.now - TOLERANCE)


def change_tenant(world: World, **changes: Any) -> None:
    key = TENANTS.key(TENANT)
    tenant, revision = world.tenant.states[key]
    world.tenant.states[key] = replace(tenant, **changes), revision


VIOLATIONS = {
    1: violate_by_hold,
    2: violate_by_remainder,
    3: violate_by_failed_build,
    4: violate_by_refund,
    5: violate_by_usage,
    6: violate_by_size,
    7: violate_by_wait,
}


@pytest.mark.parametrize("number", VIOLATIONS)
async def test_exactly_the_violation_that_was_made_is_found(number: int) -> None:
    world = await at_rest(days=33)

    VIOLATIONS[number](world)

    assert [text[:2] for text in await violations(world)] == [f"{number}:"]


async def test_a_refund_without_its_fact_is_found() -> None:
    world = await at_rest()
    await refund(world)
    await world.rest()
    refunds = [fact for fact in world.billing.facts if isinstance(fact.event, PaymentRefunded)]

    world.billing.facts.remove(refunds[0])

    amount = refunds[0].event.amount.minor
    assert wrong_money(world) == [f"{amount} are refunded at the provider, and 0 in facts"]


async def test_a_subscription_that_ended_without_a_sync_is_found() -> None:
    world = await at_rest()
    subscription = world.stripe.all("subscription")[0]

    with world.stripe.account.work():
        world.stripe.account.put({**subscription, "status": "canceled"})

    assert list(wrong_states(world)) == [f"{subscription['id']} is canceled, and active here"]
