"""A fault in any background loop of the service stops only that loop."""

from itertools import count

from paybill_runtime.testing.loop_faults import FaultyLoops, assert_each_fault_stops_one_loop
from paybill_tenant.app import service


async def test_a_fault_in_any_loop_leaves_requests_and_their_facts_alone(
    start, publish, offerings, log, sign_up, caplog
) -> None:
    served = await start(service(), loops=FaultyLoops(), offboarding_delay_s=0)
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    numbers = count(1)

    async def request_tenant() -> None:
        number = next(numbers)
        answer = await served.client.post("/v1/tenants", json=sign_up | {"slug": f"acme-{number}"})
        assert answer.status_code == 202, answer.text
        await log.facts("tenant.tenant_requested", at_least=number)

    names = await assert_each_fault_stops_one_loop(served, caplog, request_tenant)

    assert {"decider", "leases", "relay", "reader", "worker", "timers", "notices"} <= names
