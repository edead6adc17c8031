"""`bench tenants`: what a fact costs once the service knows 10,000 tenants, against 100; the same hop each time.

With 100 tenants in turn a batch of 256 facts changes 100 aggregates, with 10,000 it changes 256: each of those is read,
folded, and written. So the third figure has the facts of 100 tenants heard by a hop that knows 10,000: what is between
it and the first is the size of the tables, and what is between it and the second is the wider batch.
"""

from collections.abc import Sequence

from paybill_bench.facts import Message, messages
from paybill_bench.figures import Figure, Say
from paybill_bench.lab import Lab, answer_all, lab, median

FEW = 100
MANY = 10_000
KNOWN = MANY
"""Facts heard before the clock starts: one of each of the many."""
TIMED = 20_000
ROUNDS = 3
OURS = "paybill_bench.hop"


async def measure(say: Say) -> Sequence[Figure]:
    """The three in turn, three times."""
    few = list(messages(KNOWN + TIMED, tenants=FEW))
    many = list(messages(KNOWN + TIMED, tenants=MANY))
    kinds = {"few": few, "many": many, "known": many[:KNOWN] + few[KNOWN:]}
    per_s: dict[str, list[float]] = {kind: [] for kind in kinds}
    with lab() as servers:
        for number in range(1, ROUNDS + 1):
            for kind, facts in kinds.items():
                per_s[kind].append(await _answered(servers, facts))
            say(
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


async def _answered(servers: Lab, facts: Sequence[Message]) -> float:
    async with servers.bus(facts) as server:
        place = await servers.place(server)
        return await answer_all(server, place, OURS, len(facts), servers.folder / "child.log", untimed=KNOWN)


def _cost(ones: Sequence[float], others: Sequence[float]) -> float:
    """How much longer a fact takes at the first rates: the median of each round's own ratio."""
    return median([other / one for one, other in zip(ones, others, strict=True)])
