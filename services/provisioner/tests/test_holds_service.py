"""Holds and suspensions on a real server, observed in its catalogue while environments are built and changed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest
from blueprint_samples import blueprint_text
from paybill_contracts.placement import Preset
from paybill_contracts.tenant import Hold, HoldOrigin, HoldsChanged, SuspensionMode
from paybill_provisioner.app import service
from paybill_provisioner.execution import CHECK_AFTER_S
from paybill_runtime.testing import until
from paybill_runtime.testing.waiting import cancel

LOGINS = "SELECT rolname::text FROM pg_roles WHERE rolcanlogin AND rolname ~ $1"
TENANTS = 8
ATTEMPTS = 3
"""The machine of a test may stop for a second: a limit of one second is kept by one of these attempts."""


class Watch:
    """The logins of a tenant that the server lets in, read all the time."""

    def __init__(self) -> None:
        self.reads = 0
        self.open: set[str] = set()
        self.ever_open: set[str] = set()


@asynccontextmanager
async def watched(harness, tenant: str) -> AsyncIterator[Watch]:
    """Reads the server's catalogue without a pause during the block."""
    watch = Watch()
    postgres = harness.postgres
    connection = await asyncpg.connect(postgres.url("postgres", "postgres"), password=postgres.password("postgres"))
    query = await connection.prepare(LOGINS)

    async def read() -> None:
        while True:
            watch.open = {name for (name,) in await query.fetch(tenant.removeprefix("ten_"))}
            watch.ever_open |= watch.open
            watch.reads += 1

    task = asyncio.create_task(read())
    try:
        yield watch
    finally:
        await cancel(task)
        await connection.close()


def held(tenant) -> HoldsChanged:
    hold = Hold(origin=HoldOrigin.OPERATOR, mode=SuspensionMode.BLOCKED, reason="fraud")
    return HoldsChanged(tenant_id=tenant.tenant, holds=(hold,))


@pytest.mark.parametrize("preset", list(Preset))
async def test_the_login_of_a_tenant_that_is_held_before_its_build_is_never_open(
    provisioner, harness, publish, log, about, preset
) -> None:
    """The tenant service, which would suspend it once it is active, does not run."""
    tenant = about(preset)
    async with watched(harness, tenant.tenant) as watch:
        await publish(tenant.requested, held(tenant), tenant.entitled)
        await log.facts("provisioner.environment_ready")
        reads = watch.reads
        await until(lambda: _is_more(watch, reads + 20))

    shown = (await provisioner.client.get(f"/v1/environments/{tenant.tenant}")).json()
    assert watch.ever_open == set()
    assert (shown["status"], shown["access"]) == ("ready", "closed")


async def test_a_login_is_never_open_when_the_hold_precedes_the_fact_that_opens_it(
    provisioner, harness, publish, log, about
) -> None:
    opened_first = 0
    for number in range(TENANTS):
        tenant = about()
        async with watched(harness, tenant.tenant) as watch:
            await publish(tenant.requested, tenant.entitled)
            await asyncio.sleep(number * 0.02)
            await publish(held(tenant))
            await log.facts("provisioner.environment_ready", at_least=number + 1)

            async def closed(of=tenant.tenant) -> bool:
                shown = (await provisioner.client.get(f"/v1/environments/{of}")).json()
                return shown["access"] == "closed" and not await jobs_of(provisioner, of)

            await until(closed)
            reads = watch.reads
            await until(lambda: _is_more(watch, reads + 20))  # noqa: B023  # awaited here
        facts = [each for each in await log.facts() if each.event.tenant == tenant.tenant]
        hold = next(each.sequence for each in facts if each.event.TYPE == "tenant.holds_changed")
        opens = [
            each.sequence
            for each in facts
            if each.event.TYPE == "provisioner.access_change_started" and each.event.access == "open"
        ]
        opened_first += bool(opens) and min(opens) < hold

        assert watch.open == set()
        assert watch.ever_open == set() or min(opens) < hold
    assert opened_first < TENANTS


async def jobs_of(served, tenant: str) -> list[dict]:
    found = (await served.client.get("/v1/operations/jobs", params={"state": "pending"})).json()
    return [each for each in found if each["key"] == tenant]


class _SlowUpdates:
    """The local driver, whose updates wait for `gate`."""

    def __init__(self, driver) -> None:
        self._driver = driver
        self.running = asyncio.Event()
        self.gate = asyncio.Event()
        self.updated: list[str] = []

    def __getattr__(self, name):
        return getattr(self._driver, name)

    async def update(self, before, after, site):
        self.updated.append(after.address)
        self.running.set()
        await self.gate.wait()
        return await self._driver.update(before, after, site)


@pytest.mark.parametrize("preset", list(Preset))
async def test_a_block_closes_every_login_within_a_second_while_a_plan_runs_and_cancels_what_has_not_begun(
    start, settings, harness, publish, log, about, preset
) -> None:
    ordinary, drivers = service(), []

    def effects(settings_, secrets):
        drivers.append(_SlowUpdates(ordinary.effects(settings_, secrets)["local"]))
        return {"local": drivers[-1]}

    settings["blueprints_file"].write_text(two_logins(harness.region))
    served = await start(replace(ordinary, effects=effects), **settings)
    tenant, took_s = about(preset), []
    await publish(tenant.requested, tenant.entitled)
    await log.facts("provisioner.environment_ready")
    headers = {"Content-Type": "application/yaml"}
    changed = two_logins(harness.region, version=2).replace("_limit: 5", "_limit: 9")
    changed = changed.replace("{name: body, type: jsonb}", "{name: body, type: jsonb}, {name: size, type: bigint}")
    answer = await served.client.post("/v1/blueprints", content=changed, headers=headers)
    assert answer.status_code == 200, answer.text
    await drivers[-1].running.wait()
    running_since = time.monotonic()
    async with watched(harness, tenant.tenant) as watch:
        await until(lambda: _is_open(watch, 2))
        for _ in range(ATTEMPTS):
            began = time.monotonic()
            await publish(tenant.blocked)
            await until(lambda: _is_open(watch, 0))
            took_s.append(time.monotonic() - began)
            if took_s[-1] < 1:
                break
            await publish(tenant.reactivated)
            await until(lambda: _is_open(watch, 2))

        async def is_checked_again() -> bool:
            return time.monotonic() - running_since > CHECK_AFTER_S

        await until(is_checked_again)  # a fast machine closes access before the plan looks at it again
        drivers[-1].gate.set()

        async def stopped() -> bool:
            return not await jobs_of(served, tenant.tenant)

        await until(stopped)
        reads = watch.reads
        await until(lambda: _is_more(watch, reads + 20))
        paused = (await served.client.get(f"/v1/environments/{tenant.tenant}")).json()
        updated = list(drivers[-1].updated)
        was_open = watch.open
        await publish(tenant.reactivated)
        await log.facts("provisioner.environment_changed")
        await until(lambda: _is_open(watch, 2))

    assert min(took_s) < 1, took_s
    assert was_open == set()
    assert paused["status"] == "changing"
    assert updated == ["schema.main"]
    assert drivers[-1].updated[1:] == ["role.main", "role.reports"]


def two_logins(region: str, version: int = 1) -> str:
    """Returns a blueprint whose tiers have a second login."""
    resources = "connection_limit: 5}"
    more = "\n      - {resource: role.reports, in_schema: schema.main, connection_limit: 5}"
    return blueprint_text(region, version).replace(resources, resources + more)


async def _is_more(watch: Watch, reads: int) -> bool:
    return watch.reads > reads


async def _is_open(watch: Watch, number: int) -> bool:
    return len(watch.open) == number
