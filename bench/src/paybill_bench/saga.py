"""`bench saga`: from an accepted webhook to a tenant that is active in the log, compared with peers of the same work.

The services are separate processes, with the local driver, on the same PostgreSQL server as the peers. Before the clock
starts, every tenant has signed up, has an account and a checkout session. Then the signed webhooks are sent, and the
clock stops when the last `tenant_activated` is in the stream. A peer gets the same webhooks of tenants of its own, in
the same run: rounds alternate, and our processes are stopped meanwhile.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from paybill_bench.activations import activate_all, activate_one_by_one
from paybill_bench.figures import Figure, Progress
from paybill_bench.journeys import Stack
from paybill_bench.saga_peers import BARE, DBOS, PeerEnvironment, new_tenants, running_peer
from paybill_bench.servers import median, started_servers

POOLED, BRIDGE = "starter", "team"
ROUNDS = 3
AMOUNTS = {POOLED: 200, BRIDGE: 100}
PEER_AMOUNTS = {BARE: 200, DBOS: 100}
"""Tenants of a round: enough for seconds of work."""
PEER_WARM_UP = 10
WITH_PROVIDER = 60
PACE = "10000"
"""Billing's rate limit for Stripe; 25 a second, Stripe's limit for one endpoint, would dominate the figures."""
IDLE = 31
"""Journeys one at a time: an odd number has a middle one."""


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures with the Stripe fake first; then with the recorded provider, alternating with the peers."""
    rates: dict[str, list[float]] = defaultdict(list)
    with started_servers() as servers:
        async with servers.bus() as bus:
            stack = Stack(servers, bus, PAYBILL_STRIPE_REQUESTS_PER_S=PACE)
            try:
                await stack.start()
                for plan in (POOLED, BRIDGE):  # the first tenant of a plan creates the database
                    await stack.start_one_by_one(await stack.sign_up(plan, 1))
                with_provider = await _idle(stack, progress, "with the Stripe fake")
                amount = WITH_PROVIDER
                with_provider_per_s = amount / await stack.start_all(await stack.sign_up(POOLED, amount))
                progress(f"with the Stripe fake: {with_provider_per_s:,.1f} pooled sagas/s")
                async with stack.recorded((POOLED, BRIDGE)):
                    peers = PeerEnvironment(servers, stack.provider_port, stack.webhook_endpoint.secret)
                    idle = await _idle(stack, progress, "without")
                    async with stack.paused():
                        bare_idle = await _idle_of_peer(stack, peers, BARE)
                        progress(f"bare, one at a time: {bare_idle:.1f} ms")
                    for number in range(1, ROUNDS + 1):
                        await _round(stack, peers, rates)
                        progress(
                            f"round {number}: "
                            + ", ".join(
                                f"{name.rpartition('.')[2]} {values[-1]:,.1f}/s" for name, values in rates.items()
                            )
                        )
            finally:
                await stack.stop()
    return [
        Figure("saga.vs_dbos_same_work", _ratio(rates, DBOS), "x", least=2.2),
        Figure("saga.vs_bare", _ratio(rates, BARE), "x", least=0.43),
        Figure("saga.idle_vs_bare", idle / bare_idle, "x"),
        Figure("saga.idle_p50_ms", idle, "ms", most=40),
        Figure("saga.idle_with_provider_p50_ms", with_provider, "ms"),
        Figure("saga.bare_idle_p50_ms", bare_idle, "ms"),
        Figure("saga.pooled_per_s", median(rates[POOLED]), "sagas/s"),
        Figure("saga.bridge_per_s", median(rates[BRIDGE]), "sagas/s"),
        Figure("saga.with_provider_per_s", with_provider_per_s, "sagas/s"),
        Figure("saga.bare_per_s", median(rates[BARE]), "sagas/s"),
        Figure("saga.dbos_same_work_per_s", median(rates[DBOS]), "sagas/s"),
    ]


async def _round(stack: Stack, peers: PeerEnvironment, rates: dict[str, list[float]]) -> None:
    for plan, amount in AMOUNTS.items():
        ready = await stack.sign_up(plan, amount)
        rates[plan].append(amount / await stack.start_all(ready))
    async with stack.paused():
        for module, amount in PEER_AMOUNTS.items():
            async with running_peer(peers, module) as (bus, endpoint):
                await activate_all(bus, endpoint, stack.paid(POOLED, new_tenants(PEER_WARM_UP)))
                elapsed = await activate_all(bus, endpoint, stack.paid(POOLED, new_tenants(amount)))
            rates[module].append(amount / elapsed)


async def _idle(stack: Stack, progress: Progress, provider: str) -> float:
    """Returns the median of pooled journeys one at a time; reports when each fact was decided."""
    elapsed, timelines = await stack.start_one_by_one(await stack.sign_up(POOLED, IDLE))
    marks = {
        fact: median([timeline[fact] for timeline in timelines if fact in timeline])
        for timeline in timelines
        for fact in timeline
    }
    decided = ", ".join(f"{fact} {at:.0f}" for fact, at in sorted(marks.items(), key=lambda mark: mark[1]))
    progress(f"{provider}, one at a time: {median(elapsed):.1f} ms; decided at {decided}")
    return median(elapsed)


async def _idle_of_peer(stack: Stack, peers: PeerEnvironment, module: str) -> float:
    """Returns the median of a peer's sagas one at a time."""
    async with running_peer(peers, module) as (bus, endpoint):
        await activate_all(bus, endpoint, stack.paid(POOLED, new_tenants(PEER_WARM_UP)))
        elapsed, _ = await activate_one_by_one(bus, endpoint, stack.paid(POOLED, new_tenants(IDLE)))
    return median(elapsed)


def _ratio(rates: Mapping[str, Sequence[float]], peer: str) -> float:
    """Returns the median of the per-round ratios of our pooled rate to the peer's."""
    return median([one / other for one, other in zip(rates[POOLED], rates[peer], strict=True)])
