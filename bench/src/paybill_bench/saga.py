"""`bench saga`: from an accepted webhook to a tenant that is active in the log, compared with peers of the same work.

The services are separate processes, with the local driver, on the same PostgreSQL server as the peers. Before the clock
starts, every tenant has signed up, has an account and a checkout session. Then the signed webhooks are sent, and the
clock stops when the last `tenant_activated` is in the stream. A peer gets the same webhooks of tenants of its own, in
the same run: rounds alternate, and our processes are stopped meanwhile.

Everything is measured twice: as shipped, where nobody has requested a password yet, and with passwords that are made at
once, by us and by the peers.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from paybill_bench.activations import activate_all, activate_one_by_one
from paybill_bench.blueprints import blueprint_file
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
IDLE = 15
"""Journeys one at a time in each round: an odd number has a middle one."""
CELLS = 2
"""Pools and bridges: one bridge of the shipped capacity is too small for all rounds."""

Values = dict[str, list[float]]
"""Rates of all rounds by plan or peer; times alone by `IDLE_OF` of them."""
IDLE_OF = "idle of {}"


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures with the Stripe fake first; then with the recorded provider, alternating with the peers."""
    shipped, with_provider = await _measured(progress, credentials_at_once=False)
    at_once, _ = await _measured(progress, credentials_at_once=True)
    idle, bare_idle = median(shipped[IDLE_OF.format(POOLED)]), median(shipped[IDLE_OF.format(BARE)])
    return [
        Figure("saga.vs_dbos_same_work", _ratio(shipped, POOLED, DBOS), "x", least=4),
        Figure("saga.vs_bare", _ratio(shipped, POOLED, BARE), "x", least=0.6),
        Figure("saga.idle_vs_bare", _ratio(shipped, *map(IDLE_OF.format, (POOLED, BARE))), "x", most=1.7),
        Figure("saga.idle_p50_ms", idle, "ms", most=40),
        Figure("saga.bare_idle_p50_ms", bare_idle, "ms"),
        Figure("saga.pooled_per_s", median(shipped[POOLED]), "sagas/s"),
        Figure("saga.bridge_per_s", median(shipped[BRIDGE]), "sagas/s"),
        Figure("saga.bare_per_s", median(shipped[BARE]), "sagas/s"),
        Figure("saga.dbos_same_work_per_s", median(shipped[DBOS]), "sagas/s"),
        *with_provider,
        Figure("saga.at_once_vs_dbos_same_work", _ratio(at_once, POOLED, DBOS), "x"),
        Figure("saga.at_once_vs_bare", _ratio(at_once, POOLED, BARE), "x"),
        Figure("saga.at_once_idle_vs_bare", _ratio(at_once, *map(IDLE_OF.format, (POOLED, BARE))), "x"),
        Figure("saga.at_once_pooled_per_s", median(at_once[POOLED]), "sagas/s"),
        Figure("saga.at_once_bare_per_s", median(at_once[BARE]), "sagas/s"),
        Figure("saga.at_once_dbos_same_work_per_s", median(at_once[DBOS]), "sagas/s"),
    ]


async def _measured(progress: Progress, *, credentials_at_once: bool) -> tuple[Values, list[Figure]]:
    """Returns the values of all rounds, and the figures with the Stripe fake, which only the shipped form has."""
    values: Values = defaultdict(list)
    with_provider: list[Figure] = []
    progress(f"passwords {'at once' if credentials_at_once else 'on demand'}")
    with started_servers() as servers:
        async with servers.bus() as bus:
            blueprints = blueprint_file(servers.folder, CELLS, credentials_at_once=credentials_at_once)
            pace = {"billing": {"PAYBILL_STRIPE_REQUESTS_PER_S": PACE}}
            stack = Stack(servers, bus, blueprints=blueprints, environment=pace)
            try:
                await stack.start()
                for plan in (POOLED, BRIDGE):  # the first tenants of a plan create the databases
                    await stack.start_one_by_one(await stack.sign_up(plan, CELLS))
                if not credentials_at_once:
                    with_provider = await _with_provider(stack, progress)
                async with stack.recorded((POOLED, BRIDGE)):
                    secrets = stack.webhook_endpoint.secret
                    peers = PeerEnvironment(servers, stack.provider_port, secrets, credentials_at_once)
                    for number in range(1, ROUNDS + 1):
                        await _round(stack, peers, values, progress)
                        newest = (f"{name.rpartition('.')[2]} {each[-1]:,.1f}" for name, each in values.items())
                        progress(f"round {number}: {', '.join(newest)}")
            finally:
                await stack.stop()
    return values, with_provider


async def _with_provider(stack: Stack, progress: Progress) -> list[Figure]:
    idle = await _idle(stack, progress, "with the Stripe fake")
    per_s = WITH_PROVIDER / await stack.start_all(await stack.sign_up(POOLED, WITH_PROVIDER))
    return [
        Figure("saga.idle_with_provider_p50_ms", idle, "ms"),
        Figure("saga.with_provider_per_s", per_s, "sagas/s"),
    ]


async def _round(stack: Stack, peers: PeerEnvironment, values: Values, progress: Progress) -> None:
    values[IDLE_OF.format(POOLED)].append(await _idle(stack, progress, "without"))
    async with stack.paused():
        values[IDLE_OF.format(BARE)].append(await _idle_of_peer(stack, peers, BARE))
    for plan, amount in AMOUNTS.items():
        ready = await stack.sign_up(plan, amount)
        values[plan].append(amount / await stack.start_all(ready))
    async with stack.paused():
        for module, amount in PEER_AMOUNTS.items():
            async with running_peer(peers, module) as (bus, endpoint):
                await activate_all(bus, endpoint, stack.paid(POOLED, new_tenants(PEER_WARM_UP)))
                elapsed = await activate_all(bus, endpoint, stack.paid(POOLED, new_tenants(amount)))
            values[module].append(amount / elapsed)


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


def _ratio(values: Mapping[str, Sequence[float]], ours: str, peer: str) -> float:
    """Returns the median of the rounds' own ratios to the peer."""
    return median([one / other for one, other in zip(values[ours], values[peer], strict=True)])
