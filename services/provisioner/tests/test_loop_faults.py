"""A fault in any background loop of the service stops only that loop."""

from itertools import count

from paybill_provisioner.app import service
from paybill_runtime.testing.loop_faults import FaultyLoops, assert_each_fault_stops_one_loop

NOBODY = "a" * 32


async def test_a_fault_in_any_loop_leaves_requests_and_their_facts_alone(start, settings, log, caplog) -> None:
    served = await start(service(), loops=FaultyLoops(), **settings)
    numbers = count(1)

    async def refuse() -> None:
        answer = await served.client.post(f"/v1/environments/env_{NOBODY}/retry")
        assert answer.status_code == 404, answer.text
        await log.facts("provisioner.request_refused", at_least=next(numbers))

    names = await assert_each_fault_stops_one_loop(served, caplog, refuse)

    assert {"decider", "leases", "relay", "reader", "worker", "timers", "notices"} <= names
