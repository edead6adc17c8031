"""`bench tenants`: cost of a fact when the service knows 1,000,000 tenants, compared with 100, in the same hop.

Both get facts of the same 100 tenants, so that a batch changes as many aggregates in both: the only difference is the
size of the tables of states and of the inbox, which are filled by COPY. The outbox is not: each of its rows needs its
message in the stream.
"""

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice

import asyncpg

from paybill_bench.access import ServerAccess
from paybill_bench.facts import metered, tenant
from paybill_bench.figures import Figure, Progress
from paybill_bench.hop import HOPS, evolve, note
from paybill_bench.running_hops import RunningHops, running_hops
from paybill_bench.servers import BenchServers, median, started_servers

FEW = 100
MANY = 1_000_000
TIMED = 20_000
ROUNDS = 3
_LINES = 10_000
"""Lines of COPY that are sent at once."""


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures both cases in turn, three times, on the same tables."""
    few: list[float] = []
    many: list[float] = []
    with started_servers() as servers:
        async with knowing(servers, FEW) as one, knowing(servers, MANY) as other:
            for number in range(1, ROUNDS + 1):
                for hops, per_s in ((one, few), (other, many)):
                    per_s.append((await hops.process(TIMED, FEW)).per_s)
                progress(f"round {number}: {few[-1]:,.0f} facts/s with {FEW} tenants, {many[-1]:,.0f} with {MANY:,}")
    cost = median([one / other for one, other in zip(few, many, strict=True)])
    return [
        Figure("pipeline.cost_known_1M_vs_100", cost, "x", most=1.1),
        Figure("pipeline.known_100_per_s", median(few), "facts/s"),
        Figure("pipeline.known_1M_per_s", median(many), "facts/s"),
    ]


@asynccontextmanager
async def knowing(servers: BenchServers, amount: int) -> AsyncIterator[RunningHops]:
    """Runs the hop with the states of `amount` tenants, FEW of which get facts, and as many messages in its inbox."""
    async with running_hops(servers, 1, FEW) as hops:
        await _fill(hops.access, amount)
        await servers.checkpoint()
        yield hops


async def _fill(access: ServerAccess, amount: int) -> None:
    """Adds the rows of tenants from FEW on: the service has made those of the first by itself."""
    connection = await asyncpg.connect(access.database_url, password=access.database_password)
    try:
        states = (f"{id_}\t1\t{state}\n" for id_, state in _states(amount))
        await connection.copy_to_table(
            HOPS.table.name, columns=("id", "revision", "state"), source=_in_parts(states), format="text"
        )
        ids = (f"{secrets.token_hex(16)}\t0\n" for _ in range(amount))
        await connection.copy_to_table(
            "inbox", schema_name="chassis", columns=("event_id", "sequence"), source=_in_parts(ids), format="text"
        )
        await connection.execute(f"VACUUM (ANALYZE) {HOPS.table.name}, chassis.inbox")
    finally:
        await connection.close()


def _states(amount: int) -> Iterator[tuple[str, str]]:
    """Yields ids and documents. A document is the service's own form, with another id."""
    first = tenant(0, amount)
    [event] = note(None, metered(1, first))
    document = HOPS.document(evolve(None, event))
    for number in range(FEW, amount):
        id_ = tenant(number, amount)
        yield id_, document.replace(first, id_)


async def _in_parts(lines: Iterator[str]) -> AsyncIterator[bytes]:
    while part := list(islice(lines, _LINES)):
        yield "".join(part).encode()
