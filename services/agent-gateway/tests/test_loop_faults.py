"""A fault in any background loop of the service stops only that loop."""

from itertools import count

from paybill_agent_gateway.app import service
from paybill_runtime.testing.loop_faults import FaultyLoops, assert_each_fault_stops_one_loop


async def test_a_fault_in_any_loop_leaves_requests_and_their_facts_alone(start, log, caplog) -> None:
    served = await start(service(), loops=FaultyLoops())
    numbers = count(1)

    async def refuse() -> None:
        answer = await served.client.post("/v1/freezes/thaw", json={"freeze": "everything"})
        assert answer.status_code == 404, answer.text
        await log.facts("agent-gateway.request_refused", at_least=next(numbers))

    names = await assert_each_fault_stops_one_loop(served, caplog, refuse)

    assert {"decider", "leases", "relay", "reader", "worker", "timers", "notices"} <= names
