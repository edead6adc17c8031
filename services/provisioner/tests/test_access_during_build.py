"""Changes of access while the environment is built: they wait for no build, and the last one in order is in force."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest
from paybill_contracts.placement import Preset
from paybill_provisioner.app import service
from paybill_runtime.testing import until


class _HeldBuilds:
    """The local driver, whose logins are created and end their step when `gate` is set."""

    def __init__(self, driver) -> None:
        self._driver = driver
        self.running: list[str] = []
        self.gate = asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._driver, name)

    async def create(self, resource, site, token):
        done = await self._driver.create(resource, site, token)
        if resource.kind == "role":
            self.running.append(site.environment.tenant_id)
            await self.gate.wait()
        return done


@pytest.fixture
async def held(start, settings):
    """Returns the running service and its driver."""
    ordinary, drivers = service(), []

    def effects(settings_, secrets):
        drivers.append(_HeldBuilds(ordinary.effects(settings_, secrets)["local"]))
        return {"local": drivers[-1]}

    served = await start(replace(ordinary, effects=effects), **settings)
    return served, drivers[-1]


async def _jobs(served, state: str, kind: str) -> list[dict]:
    return (await served.client.get("/v1/operations/jobs", params={"state": state, "kind": kind})).json()


@pytest.mark.parametrize("preset", [Preset.POOLED, Preset.SILO])
async def test_changes_of_access_wait_for_no_build_and_the_last_one_is_in_force_after_it(
    held, harness, publish, log, about, preset
) -> None:
    served, driver = held
    suspended, resumed = about(preset), about(preset)
    tenants = {suspended.tenant, resumed.tenant}
    await publish(suspended.requested, suspended.entitled, resumed.requested, resumed.entitled)

    async def building() -> bool:
        return set(driver.running) == tenants

    await until(building)
    await publish(suspended.blocked, suspended.reactivated, suspended.blocked)
    await publish(resumed.blocked, resumed.reactivated)

    async def changed() -> list[dict]:
        done = await _jobs(served, "ended", "change_access")
        return done if len(done) == 5 else []

    done = await until(changed)
    builds = await _jobs(served, "pending", "build")
    driver.gate.set()
    ready = {fact.event.tenant: fact.event for fact in await log.facts("provisioner.environment_ready", at_least=2)}
    shown = {
        each: (await served.client.get(f"/v1/environments/{each}")).json()["access"]
        for each in (suspended.tenant, resumed.tenant)
    }

    assert {(job["priority"], job["state"]) for job in done} == {("security", "done")}
    assert {job["key"] for job in builds} == tenants
    assert shown == {suspended.tenant: "closed", resumed.tenant: "open"}
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="not permitted to log in"):
        async with harness.connect(ready[suspended.tenant]):
            pass
    async with harness.connect(ready[resumed.tenant]) as connection:
        assert await connection.fetchval("SELECT count(*) FROM documents") == 0
