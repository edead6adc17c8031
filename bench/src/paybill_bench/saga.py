"""`bench saga`: from a webhook that is accepted over HTTP to a tenant that is active in the log, beside DBOS.

The services are processes of their own, with the local driver, on the PostgreSQL and the NATS that DBOS gets too.
Before the clock starts every tenant has signed up, has an account and has been to the checkout. Then the webhooks are
sent, signed, and the clock stops when the last `tenant_activated` is in the stream.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from paybill_bench.figures import Figure, Say
from paybill_bench.journeys import Stack
from paybill_bench.lab import lab, median
from paybill_bench.pipeline import CONCURRENCY, dbos

POOLED, BRIDGE = "starter", "team"
ROUNDS = 3
AMOUNTS = {POOLED: 200, BRIDGE: 100}
WITH_PROVIDER = 60
PACE = "10000"
"""Our own pace at Stripe; 25 a second, its limit for one endpoint, would be all that is measured."""
IDLE = 31
"""Journeys one at a time: an odd number has a middle one."""


async def measure(say: Say) -> Sequence[Figure]:
    """With the stand-in first; then from recorded answers, in turn with DBOS."""
    rates: dict[str, list[float]] = defaultdict(list)
    with lab() as servers:
        async with servers.bus() as bus:
            stack = Stack(servers, bus, PAYBILL_STRIPE_REQUESTS_PER_S=PACE)
            try:
                await stack.start()
                for plan in (POOLED, BRIDGE):  # the first of its kind makes the database
                    await stack.one_by_one(await stack.sign_up(plan, 1))
                with_provider = await _idle(stack, say, "with the stand-in")
                amount = WITH_PROVIDER
                with_provider_per_s = amount / await stack.start_all(await stack.sign_up(POOLED, amount))
                say(f"with the stand-in: {with_provider_per_s:,.1f} pooled sagas/s")
                async with stack.recorded((POOLED, BRIDGE)):
                    idle = await _idle(stack, say, "without")
                    for number in range(1, ROUNDS + 1):
                        await _round(stack, rates)
                        async with stack.paused():
                            rates["dbos"].append(max([await dbos(servers, each) for each in CONCURRENCY]))
                        say(
                            f"round {number}: " + ", ".join(f"{name} {said[-1]:,.1f}/s" for name, said in rates.items())
                        )
            finally:
                await stack.stop()
    return [
        Figure("saga.pooled_vs_dbos", _ratio(rates, POOLED), "x", least=10),
        Figure("saga.bridge_vs_dbos", _ratio(rates, BRIDGE), "x", least=2),
        Figure("saga.idle_p50_ms", idle, "ms", most=40),
        Figure("saga.idle_with_provider_p50_ms", with_provider, "ms"),
        Figure("saga.pooled_per_s", median(rates[POOLED]), "sagas/s"),
        Figure("saga.bridge_per_s", median(rates[BRIDGE]), "sagas/s"),
        Figure("saga.with_provider_per_s", with_provider_per_s, "sagas/s"),
        Figure("saga.dbos_workflows_per_s", median(rates["dbos"]), "workflows/s"),
    ]


async def _round(stack: Stack, rates: dict[str, list[float]]) -> None:
    for plan, amount in AMOUNTS.items():
        ready = await stack.sign_up(plan, amount)
        rates[plan].append(amount / await stack.start_all(ready))


async def _idle(stack: Stack, say: Say, how: str) -> float:
    """The median of pooled journeys one at a time; says how far each had come when."""
    taken, ways = await stack.one_by_one(await stack.sign_up(POOLED, IDLE))
    marks = {fact: median([way[fact] for way in ways if fact in way]) for way in ways for fact in way}
    told = ", ".join(f"{fact} {at:.0f}" for fact, at in sorted(marks.items(), key=lambda mark: mark[1]))
    say(f"{how}, one at a time: {median(taken):.1f} ms; decided at {told}")
    return median(taken)


def _ratio(rates: Mapping[str, Sequence[float]], plan: str) -> float:
    """The median of each round's own ratio to the best that DBOS did in that round."""
    return median([one / other for one, other in zip(rates[plan], rates["dbos"], strict=True)])
