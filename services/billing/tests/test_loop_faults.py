"""A fault in any background loop of the service stops only that loop, and neither HTTP nor the webhook inbox."""

import json
from itertools import count

import pytest
from paybill_runtime.testing.loop_faults import FaultyLoops, assert_each_fault_stops_one_loop

TENANT = "ten_{:032x}"


@pytest.fixture
def settings(settings):
    """Returns billing's settings, with loops that can be made to fail."""
    return settings | {"loops": FaultyLoops()}


async def test_a_fault_in_any_loop_leaves_webhooks_and_facts_alone(testbed, outside, signed, caplog) -> None:
    numbers = count(1)

    async def receive_and_decide() -> None:
        number = next(numbers)
        event = {
            "id": f"evt_{number}",
            "object": "event",
            "type": "product.created",
            "created": 1,
            "livemode": False,
            "data": {"object": {"id": f"prod_{number}", "object": "product"}},
        }
        body = json.dumps(event).encode()
        answer = await outside.post("/webhooks/stripe", content=body, headers=signed(body))
        assert answer.status_code == 200, answer.text
        await testbed.tenants.request_tenant(TENANT.format(number))
        await testbed.log.facts("billing.account_registered", at_least=number)

    names = await assert_each_fault_stops_one_loop(testbed.served, caplog, receive_and_decide)

    assert {"decider", "leases", "relay", "reader", "worker", "timers", "notices"} <= names
