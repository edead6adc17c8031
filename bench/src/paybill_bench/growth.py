"""Cost of onboarding and of suspending a tenant when 10,000 tenants exist, compared with 100.

Two whole stacks with servers of their own take turns; the services of the other one are stopped meanwhile (SIGSTOP).
Measured is the processor time of the services, NATS and PostgreSQL, which other work on the machine changes least.
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import pairwise

import httpx

from paybill_bench.deadlines import StallDetector
from paybill_bench.figures import Figure, Progress
from paybill_bench.grown_stack import PLAN, GrownStack, grown_stack
from paybill_bench.journeys import Stack
from paybill_bench.saga import PACE
from paybill_bench.servers import BenchmarkError, median

FEW, MANY = 100, 10_000
ROUNDS, TENANTS = 5, 60
POOLS = 10
"""Pools of the region: a pool has 1,000 tenants at most."""
_CALLERS = 8
_PACE = {"PAYBILL_STRIPE_REQUESTS_PER_S": PACE}
_CLOSED = "provisioner.access_closed"

Costs = dict[int, list[float]]
"""Milliseconds of processor time of a tenant in each round, by the number of tenants."""


async def measure_growth(progress: Progress) -> Sequence[Figure]:
    """Onboards and suspends tenants in both stacks in turn."""
    onboarding: Costs = {FEW: [], MANY: []}
    suspension: Costs = {FEW: [], MANY: []}
    async with AsyncExitStack() as stacks:
        few = await stacks.enter_async_context(grown_stack(FEW, POOLS, **_PACE))
        async with few.stack.paused():
            many = await stacks.enter_async_context(grown_stack(MANY, POOLS, **_PACE))
        for number in range(1, ROUNDS + 1):
            for measured, other in ((few, many), (many, few)):
                async with other.stack.paused():
                    onboarded, suspended = await costs_ms(measured, TENANTS)
                onboarding[measured.amount].append(onboarded)
                suspension[measured.amount].append(suspended)
            progress(f"round {number}, {FEW} and {MANY:,} tenants: " + _newest(onboarding, suspension))
    return [
        Figure("saga.growth_100_10k", _growth(onboarding), "x", most=1.2),
        Figure("suspend.growth_100_10k", _growth(suspension), "x", most=1.2),
        Figure("saga.cost_10k_ms", median(onboarding[MANY]), "ms of processor time"),
        Figure("suspend.cost_10k_ms", median(suspension[MANY]), "ms of processor time"),
    ]


async def costs_ms(grown: GrownStack, amount: int) -> tuple[float, float]:
    """Returns the processor time of an onboarding and of a suspension, in ms."""
    webhooks = await grown.stack.sign_up(PLAN, amount)
    tenants = [webhook.tenant for webhook in webhooks]
    marks = [grown.processor_time_s()]
    await grown.stack.start_all(webhooks)
    marks.append(grown.processor_time_s())
    await _suspend_all(grown.stack, tenants)
    marks.append(grown.processor_time_s())
    onboarding, suspension = ((end - begin) * 1000 / amount for begin, end in pairwise(marks))
    return onboarding, suspension


async def _suspend_all(stack: Stack, tenants: Sequence[str]) -> None:
    """Suspends tenants; returns once the access of all is closed."""
    waiting, left, progress = iter(tenants), set(tenants), StallDetector()
    body = {"mode": "blocked", "reason": "unpaid"}

    async def call(client: httpx.AsyncClient) -> None:
        for tenant in waiting:
            response = await client.post(f"/v1/tenants/{tenant}/suspend", json=body)
            if response.is_error:
                raise BenchmarkError(f"a suspension was refused: {response.text[:300]}")

    async with stack.consumer_of(_CLOSED) as consumer, stack.client("tenant") as client:
        await asyncio.gather(*(call(client) for _ in range(_CALLERS)))
        while left:
            left -= {json.loads(message.data)["tenant_id"] for message in await consumer.fetch(1.0)}
            if progress.stalled(len(left)):
                raise BenchmarkError(f"the access of {len(left)} tenants was not closed")


def _growth(costs: Costs) -> float:
    return median([many / few for few, many in zip(costs[FEW], costs[MANY], strict=True)])


def _newest(onboarding: Costs, suspension: Costs) -> str:
    return "; ".join(
        f"{name} {costs[FEW][-1]:.1f} and {costs[MANY][-1]:.1f} ms"
        for name, costs in (("an onboarding", onboarding), ("a suspension", suspension))
    )
