"""Invariants of a running service: a difference that lasts is a fact, and so is its end."""

from dataclasses import replace

from paybill_contracts.invariants import Difference, Invariant
from paybill_runtime.diagnosis.invariants import CHECK, CHECK_ALL, Invariants, TenantState
from paybill_runtime.testing import until
from paybill_tenant.app import service
from paybill_tenant.domain.tenants import Status
from paybill_tenant.tables import TENANTS, VIOLATIONS

TOLERANCE_S = 0.6


def _is_leaving(states, _now) -> Difference | None:
    (tenant,) = states
    if tenant.status is Status.CANCELLED:
        return None
    return Difference(left=f"{tenant.slug} is {tenant.status}", right="it should be cancelled")


TENANT_STATE = TenantState(TENANTS, id_of=str, tenant_of=lambda tenant: tenant.id)
RULE = Invariant(99, "every tenant is cancelled", _is_leaving)


async def started(start, *rules: Invariant, **settings):
    declared = replace(service(), invariants=Invariants(VIOLATIONS, (TENANT_STATE,), rules))
    return await start(declared, invariant_tolerance_s=TOLERANCE_S, **settings)


async def violations(served, status: str = "open") -> list[dict[str, object]]:
    return (await served.client.get("/v1/violations", params={"status": status})).json()["violations"]


async def test_a_difference_that_lasts_is_recorded_once_and_restored_once(
    start, publish, log, offerings, sign_up
) -> None:
    served = await started(start, RULE)
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    tenant = (await sign_up(served)).json()

    violated = (await log.facts("tenant.invariant_violated"))[0].event
    [found] = await violations(served)
    await served.client.post(f"/v1/tenants/{tenant['id']}/offboard", json={"reason": "changed its mind"})
    restored = (await log.facts("tenant.invariant_restored"))[0].event

    assert (violated.tenant_id, violated.number, violated.left) == (tenant["id"], 99, "acme is requested")
    assert (violated.tenant_id, found["tenant_id"]) == (restored.tenant_id, tenant["id"])
    assert await violations(served) == []
    assert [each["id"] for each in await violations(served, "restored")] == [violated.violation_id]

    async def is_checked():
        return (await served.client.get("/v1/operations/jobs", params={"kind": CHECK})).json() == []

    await until(is_checked)


async def test_the_check_of_all_tenants_finds_what_no_change_announced(start, publish, log, offerings, sign_up) -> None:
    silent = True
    rule = replace(RULE, check=lambda states, now: None if silent else _is_leaving(states, now))
    served = await started(start, rule, invariant_interval_s=0.2)
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    tenant = (await sign_up(served)).json()
    silent = False

    async def found():
        return await violations(served)

    [violation] = await until(found)
    kinds = {job["kind"] for job in (await served.client.get("/v1/operations/jobs")).json()}
    assert violation["tenant_id"] == tenant["id"]
    assert {CHECK, CHECK_ALL} <= kinds
