"""Budget of the calls that checks of drift make of one provider."""

import asyncio
import time

import pytest
from paybill_provisioner.checks.drift import CallBudget


@pytest.mark.parametrize("per_s", [50.0, 200.0])
async def test_calls_at_the_same_time_have_the_distance_of_the_budget(per_s: float) -> None:
    budget, at = CallBudget(per_s), list[float]()

    async def call() -> None:
        await budget.take()
        at.append(time.monotonic())

    began = time.monotonic()
    await asyncio.gather(*(call() for _ in range(11)))

    # The first call needs no wait, and each later one at least its distance from the begin.
    assert all(each - began >= number / per_s - 0.001 for number, each in enumerate(sorted(at)))
