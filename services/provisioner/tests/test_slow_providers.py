"""Slow operations of a provider hold no slot: other tenants are built meanwhile."""

from fake_cloud import Call, Cloud, CloudDriver, Fault
from paybill_contracts.placement import Preset
from paybill_provisioner.domain.environment_state import Status
from paybill_runtime.testing import until
from schedules import Process, service_on

SILOS = 64
NEVER = 1_000_000


def slow_databases(call: Call) -> Fault:
    return Fault.PENDING if (call.method, call.kind) == ("create", "database") and "silo" in call.name else Fault.NONE


async def test_silos_whose_databases_take_long_never_delay_a_pooled_tenant(
    start, settings, databases, publish, about
) -> None:
    cloud = Cloud(slow_databases, polls=NEVER, poll_s=5)
    process = Process(start, service_on(CloudDriver(cloud)), settings, await databases.fresh("provisioner"))
    await process.begin()
    silos = [about(Preset.SILO) for _ in range(SILOS)]
    for each in silos:
        await publish(each.requested, each.entitled)

    async def pending() -> bool:
        found = [await process.environment(each.tenant) for each in silos]
        return all(each is not None and each.operations for each in found)

    await until(pending)
    pooled = about()
    await publish(pooled.requested, pooled.entitled)
    ready = await process.settled(pooled.tenant, Status.READY)
    meanwhile = [await process.environment(each.tenant) for each in silos]
    for thing in cloud.things:
        thing.polls = 0
    built = [await process.settled(each.tenant, Status.READY) for each in silos]

    assert ready.status is Status.READY
    assert {(each.status, bool(each.operations)) for each in meanwhile if each} == {(Status.BUILDING, True)}
    assert all(not each.operations for each in built)
    assert set(cloud.built.values()) == {1}
