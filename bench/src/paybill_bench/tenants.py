"""`bench tenants`: cost of a fact when the service has 10,000 tenants, compared with 100, in the same hop.

With 100 tenants in turn, a batch of 256 facts changes 100 aggregates, with 10,000 it changes 256: each of those is
read, folded, and written. So the third figure uses facts of 100 tenants in a hop that has 10,000: its difference to
the first is the size of the tables, its difference to the second is the wider batch.
"""

from collections.abc import Sequence

from paybill_bench.facts import Message, messages
from paybill_bench.figures import Figure, Progress
from paybill_bench.servers import BenchServers, median, process_log, started_servers

FEW = 100
MANY = 10_000
WARM_UP = MANY
"""Facts processed before the clock starts: one of each of the many tenants."""
TIMED = 20_000
ROUNDS = 3
OURS = "paybill_bench.hop"


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures the three cases in turn, three times."""
    few = list(messages(WARM_UP + TIMED, tenants=FEW))
    many = list(messages(WARM_UP + TIMED, tenants=MANY))
    kinds = {"few": few, "many": many, "known": many[:WARM_UP] + few[WARM_UP:]}
    per_s: dict[str, list[float]] = {kind: [] for kind in kinds}
    with started_servers() as servers:
        for number in range(1, ROUNDS + 1):
            for kind, facts in kinds.items():
                per_s[kind].append(await _rate(servers, facts))
            progress(
                f"round {number}: {per_s['few'][-1]:,.0f} facts/s of {FEW} tenants, "
                f"{per_s['many'][-1]:,.0f} of {MANY:,}, "
                f"{per_s['known'][-1]:,.0f} of {FEW} while {MANY:,} are known"
            )
    return [
        Figure("pipeline.cost_10000_vs_100", _cost(per_s["many"], per_s["few"]), "x", most=1.2),
        Figure("pipeline.cost_10000_known_vs_100", _cost(per_s["known"], per_s["few"]), "x"),
        Figure("pipeline.events_100_per_s", median(per_s["few"]), "facts/s"),
        Figure("pipeline.events_10000_per_s", median(per_s["many"]), "facts/s"),
    ]


async def _rate(servers: BenchServers, facts: Sequence[Message]) -> float:
    async with servers.bus(facts) as server:
        access = await servers.access(server)
        return await process_log(server, access, OURS, len(facts), servers.folder / "child.log", untimed=WARM_UP)


def _cost(ones: Sequence[float], others: Sequence[float]) -> float:
    """Returns the median of the per-round cost ratios of a fact."""
    return median([other / one for one, other in zip(ones, others, strict=True)])
