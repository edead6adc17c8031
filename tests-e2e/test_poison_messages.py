"""One tenant with failing facts: its retry queue is visible, others are not delayed, and after the fix it is in order.

A round is a service with an empty database and log under the same load: once with a bug for one tenant's facts, once
without. Rounds alternate, and the p99 with the bug is divided by the p99 without it. Other load on the machine changes
p99 by more than a factor of two, so the median of the ratios decides, and while it is too high more rounds are taken: a
queue that really waits for another tenant's is slow in all of them.
"""

import asyncio
import json
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from nats.aio.client import Client
from paybill_bench.access import ServerAccess
from paybill_bench.facts import Message, messages, tenant
from paybill_bench.servers import OUTPUT_SUBJECTS, BenchServers, percentile
from paybill_contracts.envelope import Fact, read_fact
from paybill_embedded.nats import NatsServer
from paybill_embedded.ports import free_port
from paybill_runtime.http.auth import Role, make_key
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.retry_queue import MAX_ATTEMPTS
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.testing import until

PER_S = 250
SECONDS = 3
TENANTS = 80
POISON_EVERY = 5
"""One fact in so many is of the failing tenant: as many as of twenty others."""
POISON = tenant(0)
ROUNDS, MAX_ROUNDS = 3, 9
MAX_RATIO = 2.0


@dataclass
class Stage:
    """A log, a database, and the configuration of the service between them."""

    server: NatsServer
    access: ServerAccess
    api_keys_file: Path
    api_key: str
    port: int

    @asynccontextmanager
    async def running(self, poison: str) -> AsyncIterator[httpx.AsyncClient]:
        """Runs the service, with or without the bug; returns an operator's client."""
        arguments = {
            "access": asdict(self.access),
            "poison": poison,
            "api_keys_file": str(self.api_keys_file),
            "port": self.port,
        }
        program = Path(__file__).with_name("poisoned_hop.py")
        child = await asyncio.create_subprocess_exec(sys.executable, str(program), json.dumps(arguments))
        operator = {"Authorization": f"Bearer {self.api_key}"}
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=operator) as client:
                await until(lambda: _is_ready(client), timeout_s=30)
                yield client
        finally:
            child.kill()
            await child.wait()


async def _is_ready(client: httpx.AsyncClient) -> bool:
    with suppress(httpx.TransportError):
        return (await client.get("/readyz")).status_code == 200
    return False


@pytest.fixture
def stages(postgres, databases, tmp_path):
    """Returns `stages()`, a context manager of an empty stage."""
    servers = BenchServers(tmp_path, postgres)
    key = make_key("test", "test", Role.ADMIN, ("*",), datetime.now(UTC) + timedelta(days=1))
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [key.stored]}))

    @asynccontextmanager
    async def stage() -> AsyncIterator[Stage]:
        async with servers.bus() as server:
            access = ServerAccess(
                server.url,
                "tenant",
                str(server.password_file("tenant")),
                await databases.fresh("tenant"),
                str(postgres.password_file("tenant")),
            )
            yield Stage(server, access, keys, key.raw, free_port())

    return stage


def _load() -> list[Message]:
    """Returns the facts of a round: some of the failing tenant, the others in turn."""
    failing = messages(PER_S * SECONDS, tenants=1)
    others = (fact for fact in messages(2 * PER_S * SECONDS, tenants=TENANTS) if fact.headers["pb-tenant"] != POISON)
    return [next(others if index % POISON_EVERY else failing) for index in range(PER_S * SECONDS)]


async def _latencies(stage: Stage, load: list[Message]) -> list[float]:
    """Returns sorted seconds from each other tenant's due time to its output; the first half second is not counted."""
    clock = asyncio.get_running_loop().time
    source = await connect(stage.server.url, "billing", stage.server.password("billing"))
    operator = await connect(stage.server.url, "operator", stage.server.password("operator"))
    consumer = OrderedConsumer(operator, EVENTS, [OUTPUT_SUBJECTS], 1)
    due: dict[str, float] = {}
    published_at: dict[str, float] = {}
    others = {fact.headers["ce-id"] for fact in load if fact.headers["pb-tenant"] != POISON}

    async def read() -> None:
        while not others <= published_at.keys():
            for message in await consumer.fetch(1.0):
                published_at[message.headers["pb-cause"]] = clock()

    reading = asyncio.create_task(read())
    publishing: list[asyncio.Task] = []
    begin = clock() + 0.1
    for index, fact in enumerate(load):
        due[fact.headers["ce-id"]] = at = begin + index / PER_S
        await asyncio.sleep(max(0.0, at - clock()))
        publishing.append(asyncio.create_task(_publish(source, fact)))
    await asyncio.gather(*publishing)
    async with asyncio.timeout(30):
        await reading
    await consumer.close()
    await source.close()
    await operator.close()
    return sorted(published_at[id_] - due[id_] for id_ in others if due[id_] > begin + 0.5)


async def _publish(source: Client, fact: Message) -> None:
    await source.jetstream().publish(fact.subject, fact.payload, headers=fact.headers)


async def _p99(stages, poison: str) -> float:
    async with stages() as stage, stage.running(poison):
        return percentile(await _latencies(stage, _load()), 0.99)


async def test_other_tenants_are_not_delayed_by_a_tenant_with_failing_facts(stages) -> None:
    with_bug: list[float] = []
    without: list[float] = []
    for done in range(1, MAX_ROUNDS + 1):
        without.append(await _p99(stages, ""))
        with_bug.append(await _p99(stages, POISON))
        ratio = statistics.median(one / other for one, other in zip(with_bug, without, strict=True))
        if done >= ROUNDS and ratio <= MAX_RATIO:
            break
    shown = [f"{one * 1000:.0f}/{other * 1000:.0f} ms" for one, other in zip(with_bug, without, strict=True)]
    sys.stdout.write(f"p99 of the others with the bug / without: {', '.join(shown)}; median ratio {ratio:.2f}\n")
    assert ratio <= MAX_RATIO, shown


async def test_its_retry_queue_is_visible_to_operators_and_processed_in_order_after_the_fix(stages, databases) -> None:
    load = _load()
    failing = [fact.headers["ce-id"] for fact in load if fact.headers["pb-tenant"] == POISON]
    async with stages() as stage:
        async with stage.running(POISON) as client:
            await _latencies(stage, load)
            overview = await until(lambda: _overview(client, retrying=len(failing), dead=0))
            # The last attempt comes two minutes after the first.
            await databases.execute(
                stage.access.database_url,
                "tenant",
                f"UPDATE chassis.parked SET attempts = {MAX_ATTEMPTS - 1}, next_at = now() WHERE attempts > 0",
            )
            await until(lambda: _overview(client, retrying=len(failing), dead=1))
            letters = (await client.get("/v1/operations/dead-letters", params={"limit": 500})).json()
        async with stage.running("") as client:
            still = (await client.get("/v1/operations")).json()
            redriven = await client.post(f"/v1/operations/dead-letters/{failing[0]}/redrive")
            await until(lambda: _overview(client, retrying=0, dead=0), timeout_s=30)
        outputs = await _outputs_of_poison(stage)

    assert overview["service"] == "tenant"
    assert [letter["event_id"] for letter in letters] == failing
    assert [letter["dead"] for letter in letters] == [True] + [False] * (len(failing) - 1)
    assert letters[0]["reason"].startswith("ZeroDivisionError")
    assert (still["parked"], still["dead"], redriven.status_code) == (len(failing), 1, 200)
    assert [fact.origin.cause for fact in outputs] == failing
    assert [fact.revision for fact in outputs] == list(range(1, len(failing) + 1))


async def _overview(client: httpx.AsyncClient, *, retrying: int, dead: int) -> dict | None:
    """Returns the operations overview, once the queue has this size."""
    found = (await client.get("/v1/operations")).json()
    return found if (found["parked"], found["dead"]) == (retrying, dead) and found["outbox_waiting"] == 0 else None


async def _outputs_of_poison(stage: Stage) -> list[Fact]:
    client = await connect(stage.server.url, "operator", stage.server.password("operator"))
    consumer = OrderedConsumer(client, EVENTS, ["paybill.events.*.tenant.hop_noted.*"], 1)
    facts: list[Fact] = []
    while await consumer.pending():
        for message in await consumer.fetch(1.0):
            fact = read_fact(message.subject, message.headers, message.data, stream_sequence(message))
            facts += [fact] * (fact.event.tenant == POISON)
    await consumer.close()
    await client.close()
    return facts
