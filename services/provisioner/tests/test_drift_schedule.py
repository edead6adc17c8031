"""Scheduled check of drift: slots in a period, a budget of calls, and each class of difference published once."""

import shutil
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from fake_cloud import Cloud, CloudDriver
from paybill_provisioner.app import service
from paybill_provisioner.checks.drift import MAX_SLOTS, MIN_SLOT_S, DriftChecks
from paybill_runtime.testing import until
from schedules import service_on
from test_drift_service import EVERY_S, POLICY, YAML, built

PREFIXES = ("00", "3f", "40", "7f", "80", "bf", "c0", "ff")
SLOTS = 4
PAGES = 20
CALLS_PER_S = 50.0
"""A check of the fleet, of PAGES calls, needs more than a period of EVERY_S."""


class Clock:
    """Context of a service with another time."""

    def __init__(self, context) -> None:
        self._context = context
        self.at = datetime(2027, 1, 1, tzinfo=UTC)

    def __getattr__(self, name):
        return getattr(self._context, name)

    def now(self):
        return self.at


class Observing(CloudDriver):
    """A driver that records the scope and the time of each call. pages: calls of an observation."""

    def __init__(self, cloud, pages=1) -> None:
        super().__init__(cloud)
        self._pages = pages
        self.scopes = []
        self.at = []

    async def observe(self, scope):
        self.scopes.append(scope)
        self.at.append(time.monotonic())
        found = [each async for page in super().observe(scope) for each in page]
        yield found
        for _ in range(self._pages - 1):
            self.at.append(time.monotonic())
            yield []


async def test_each_environment_is_checked_once_in_a_period_in_the_slot_of_its_id(
    start, settings, publish, log, about
) -> None:
    driver = Observing(Cloud())
    served = await start(service_on(driver), **{**settings, "drift_every_s": SLOTS * MIN_SLOT_S})
    tenants = [about(prefix=prefix) for prefix in PREFIXES]
    for tenant in tenants:
        await publish(tenant.requested, tenant.entitled)
    await log.facts("provisioner.environment_ready", at_least=len(tenants))
    clock = Clock(served.running.context)
    run, job = DriftChecks(clock, {"local": driver}).kind().run, SimpleNamespace(leases={})

    def checked():
        return [each.tenant for each in tenants if any(scope.includes(each.tenant) for scope in driver.scopes)]

    after_s = [await run(job)]
    assert driver.scopes == []  # the slot of the start was checked by the process before
    in_slots = []
    for _ in range(2 * SLOTS):
        clock.at += timedelta(seconds=after_s[-1])
        driver.scopes.clear()
        after_s.append(await run(job))
        in_slots.append(checked())
    # A check that was late by a slot makes up for it, and one that was late by more than a period checks all once.
    late = []
    for missed in (2, 3 * SLOTS):
        clock.at += timedelta(seconds=missed * MIN_SLOT_S)
        driver.scopes.clear()
        await run(job)
        late.append(len(driver.scopes))

    assert set(after_s) == {MIN_SLOT_S}
    assert [len(each) for each in in_slots] == [2] * (2 * SLOTS)
    assert Counter(each for slot in in_slots for each in slot) == {each.tenant: 2 for each in tenants}
    assert in_slots[:SLOTS] == in_slots[SLOTS:]
    assert late == [2, SLOTS]
    assert SLOTS <= MAX_SLOTS


async def test_a_small_budget_of_calls_spreads_the_fleet_over_periods(start, settings, publish, log, about) -> None:
    driver = Observing(Cloud(), PAGES)
    more = {"drift_every_s": EVERY_S, "drift_calls_per_s": CALLS_PER_S}
    await start(
        service_on(driver, lambda context, drivers: [DriftChecks(context, drivers).kind()]), **{**settings, **more}
    )
    tenants = [about(prefix=prefix) for prefix in PREFIXES]
    for tenant in tenants:
        await publish(tenant.requested, tenant.entitled)
    await log.facts("provisioner.environment_ready", at_least=len(tenants))
    driver.cloud.things[:] = [each for each in driver.cloud.things if each.resource.kind != "bucket"]
    first = time.monotonic()
    facts = await log.facts("provisioner.drift_found", at_least=len(tenants))
    await until(lambda: _observations(driver, 3, first))
    calls = [each for each in driver.at if each >= first]

    # Each environment's difference is found although one check needs more than a period, and no second is over budget.
    assert {each.event.tenant_id for each in facts} == {each.tenant for each in tenants}
    assert PAGES / CALLS_PER_S >= EVERY_S
    assert all(sum(at <= each < at + 1 for each in calls) <= CALLS_PER_S + 1 for at in calls)
    assert len(await log.facts("provisioner.drift_found")) == len(tenants)


async def _observations(driver, number, since) -> bool:
    """Returns whether so many whole observations were made."""
    return sum(each >= since for each in driver.at) >= (number + 1) * PAGES


@pytest.fixture
async def checking(start, settings):
    """Returns a service whose period is short."""
    return await start(service(), **{**settings, "drift_every_s": EVERY_S, "drift_calls_per_s": 1000})


async def test_the_scheduled_check_publishes_each_class_of_difference_once(
    start, settings, databases, harness, publish, log, about
) -> None:
    tenant, url = about(), await databases.fresh("provisioner")
    before = await start(replace(service(), job_kinds=lambda _: ()), url, **settings)
    role = (await built(publish, log, tenant)).username
    await before.client.post("/v1/policies", content=POLICY.format(drift="report"), headers=YAML)
    await before.running.__aexit__()
    number = tenant.tenant.removeprefix("ten_")
    tenants = harness.directory / "tenants"
    (bucket,) = tenants.glob(f"*/*/*{number}")
    elsewhere = tenants / f"{harness.region}-old" / bucket.parent.name / bucket.name
    elsewhere.parent.mkdir(parents=True)
    shutil.move(bucket, elsewhere)
    await harness.as_superuser("postgres", f'ALTER ROLE "{role}" CONNECTION LIMIT 500')
    await harness.secrets.delete(f"environments/{number}/database")
    await harness.secrets.put(f"environments/{number}/old", "a-value")
    served = await start(service(), url, **{**settings, "drift_every_s": EVERY_S, "drift_calls_per_s": 1000})
    client, path = served.client, f"/v1/environments/{tenant.tenant}/drift"
    facts = await log.facts("provisioner.drift_found", at_least=4)
    listed = (await client.get(path)).json()["differences"]
    moved = next(each for each in listed if each["kind"] == "moved")
    await client.post(f"{path}/{moved['id']}/accept", json={"reason": "another disk"})
    # Another value shows that a later check found the other differences, too, and did not publish them again.
    await harness.as_superuser("postgres", f'ALTER ROLE "{role}" CONNECTION LIMIT 700')
    later = await log.facts("provisioner.drift_found", at_least=5)
    listed_later = (await client.get(path)).json()["differences"]
    (accepted,) = await log.facts("provisioner.drift_accepted")
    (incident,) = (await client.get("/v1/incidents", params={"tenant": tenant.tenant})).json()["incidents"]

    found = {each.event.difference.kind: each.event.difference for each in facts}
    old, new = (path.relative_to(tenants).as_posix() for path in (bucket, elsewhere))
    assert {kind: (each.address, each.expected, each.observed) for kind, each in found.items()} == {
        "missing": ("secret.database", f"environments/{number}/database", None),
        "changed": ("role.main", "5", "500"),
        "unknown": (None, None, f"environments/{number}/old"),
        "moved": ("bucket.data", old, new),
    }
    assert [(each.event.difference.kind, each.event.difference.observed) for each in later[4:]] == [("changed", "700")]
    assert accepted.event.difference == found["moved"]
    assert [each["accepted"] for each in listed_later if each["kind"] == "moved"] == ["another disk"]
    assert {each["kind"] for each in listed_later} == found.keys()
    assert (incident["kind"], {each["name"] for each in incident["evidence"]}) == (
        "drift",
        {"missing", "changed", "unknown"},
    )


async def test_drift_that_the_scheduled_check_finds_is_proposed_and_repaired_when_it_is_approved(
    checking, harness, publish, log, about
) -> None:
    tenant, client = about(), checking.client
    role = (await built(publish, log, tenant)).username
    policy = POLICY.format(drift="propose")
    await client.post("/v1/policies", content=policy, headers=YAML)
    await harness.as_superuser("postgres", f'ALTER ROLE "{role}" CONNECTION LIMIT 500')
    (request,) = await log.facts("provisioner.approval_requested")
    approved = await client.post(
        f"/v1/approvals/{request.event.approval_id}/approve", json={"plan_hash": request.event.plan_hash}
    )
    applied = await client.post(f"/v1/environments/{tenant.tenant}/plans/{request.event.plan_hash}/apply")
    await log.facts("provisioner.drift_ended")
    limits = await harness.as_superuser("postgres", "SELECT rolconnlimit FROM pg_roles WHERE rolname = $1", role)

    assert (approved.status_code, applied.status_code) == (200, 202), approved.text + applied.text
    assert [each.text for each in request.event.reasons] == ["the plan repairs role.main"]
    assert limits == [(5,)]
    assert len(await log.facts("provisioner.drift_found")) == 1
