"""The power fails under load: what was acknowledged is there afterwards, on either server and on both at once."""

import asyncio
import json
import os
import random
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import asyncpg
import httpx
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_embedded import EmbeddedError, NatsServer, PostgresServer, free_port
from paybill_embedded.child import Child
from paybill_embedded.lock import sole_server
from paybill_runtime.clock import new_id
from paybill_runtime.http.auth import Role, make_key
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect, ensure
from paybill_runtime.security.identity import make_identity
from paybill_runtime.telemetry import child
from paybill_runtime.testing import until
from power import Disk, hold

CUTS = 10
CUSTOMERS = 8
MORE = 20
"""How many are accepted, published, heard and confirmed between two cuts, at the least."""
RETENTIONS_S = (86_400, 172_800)
"""What is said about each account, in turn: the first one applied again after the second would be news again."""
SERVERS = ("nats", "postgres")
WAITING = "SELECT event_id FROM chassis.outbox WHERE sequence IS NULL"


class World:
    """Both servers, each on a disk of its own, the tenant service as a process, and customers who never wait.

    accepted: tenants by slug, once HTTP has said 202. published: places of facts by id, once the stream has said them.
    overdue: facts seen after a cut that were committed and not marked as published; recognised: those of them that the
    stream had.
    """

    def __init__(self, folder: Path, disks: dict[str, Disk], registered) -> None:
        self.nats = NatsServer(disks["nats"].place / "data")
        self.postgres = PostgresServer(disks["postgres"].place / "data")
        self.servers = {"nats": self.nats, "postgres": self.postgres}
        self.accepted: dict[str, str] = {}
        self.published: dict[str, int] = {}
        self.overdue = self.recognised = 0
        self._disks = disks
        self._folder = folder
        self._registered = registered
        self._numbers = count(1)
        self._closing = False
        self._service: subprocess.Popen | None = None
        self._customers: list[asyncio.Task] = []
        self._buses: dict[str, Client] = {}
        self._connecting = asyncio.Lock()

    async def open(self, offerings) -> None:
        await self._start(SERVERS)
        self.postgres.ensure_databases()
        users = {"nats": ("steward", "tenant", "billing", "provisioner", "operator"), "postgres": ("tenant",)}
        self._passwords = {(name, user): self.servers[name].password(user) for name in SERVERS for user in users[name]}
        steward = await self._connected("steward")
        await ensure(steward)
        await steward.close()
        self._settings = self._made_settings()
        self._start_service()
        for event in offerings:
            await self._publish(event)
        await until(self._answers, timeout_s=30)
        self._customers = [asyncio.create_task(self._be_customers()) for _ in range(CUSTOMERS)]
        await self.more()

    async def _answers(self) -> bool:
        async with httpx.AsyncClient(**self._http) as client:
            try:
                return (await client.get("/readyz")).is_success
            except httpx.TransportError:
                return False

    async def close(self) -> None:
        for task in self._customers:
            task.cancel()
        await asyncio.gather(*self._customers, return_exceptions=True)
        for bus in self._buses.values():
            await bus.close()
        if self._service:
            self._service.kill()
            self._service.wait()
        for server in self.servers.values():
            server.kill()

    async def more(self) -> None:
        """Return when everything has gone on for a while: requests, facts of others, hearing, and facts going out."""
        wanted = [number + MORE for number in await self._progress()]

        async def enough() -> bool:
            for customer in self._customers:
                if customer.done():
                    customer.result()
            return all(map(int.__ge__, await self._progress(), wanted))

        await until(enough, timeout_s=30)

    async def _progress(self) -> list[int]:
        (row,) = await self._rows(
            "SELECT (SELECT count(*) FROM chassis.inbox) AS heard, "
            "(SELECT count(*) FROM chassis.outbox WHERE sequence IS NOT NULL) AS confirmed"
        )
        return [len(self.accepted), len(self.published), *row.values()]

    async def cut(self, *names: str, before_marking: bool = False) -> list[str]:
        """No power for these servers, and then again; with all of them goes the service. What it cost."""
        lock = await self._marking_held_up() if before_marking else None
        accepted, published = dict(self.accepted), dict(self.published)
        await asyncio.to_thread(self._cut, names)
        if lock is not None:
            lock.terminate()
        try:
            await self._start(names)
        except EmbeddedError as error:
            return [f"a server does not come back: {error}"]
        if names == SERVERS:
            self._start_service()
        return await self._losses(accepted, published)

    async def _marking_held_up(self) -> asyncpg.Connection:
        """Return when facts are in the stream that the relay cannot mark, for this connection locks its lease."""
        lock = await self._connection()
        await lock.execute("BEGIN; SELECT FROM chassis.lease WHERE name = 'relay' FOR UPDATE")

        async def unmarked() -> bool:
            return bool((await self._waiting()) & {headers["ce-id"] for _, headers, _ in await self.stream()})

        await until(unmarked)
        return lock

    def _cut(self, names) -> None:
        machine = names == SERVERS
        hold([self.servers[name].pid for name in names] + ([self._service.pid] if machine else []))
        for name in names:
            self._disks[name].keep_what_reached_it()
        for name in names:
            self.servers[name].kill()
        if machine:
            self._service.kill()
            self._service.wait()
        for name in names:
            self._disks[name].lose_the_rest()

    async def _losses(self, accepted: dict[str, str], published: dict[str, int]) -> list[str]:
        """What somebody was told, and is no longer so. PostgreSQL is asked first, for it hears of the stream."""
        tenants = {row["id"] for row in await self._rows("SELECT id FROM tenants")}
        confirmed = await self._places("SELECT event_id, sequence FROM chassis.outbox WHERE sequence IS NOT NULL")
        waiting = await self._waiting()
        heard = await self._places("SELECT event_id, sequence FROM chassis.inbox")
        (read,) = await self._rows("SELECT coalesce(max(sequence), 0) AS upto FROM chassis.position")
        stream = {sequence: headers["ce-id"] for sequence, headers, _ in await self.stream()}
        self.overdue += len(waiting)
        self.recognised += len(waiting & set(stream.values()))
        told = {"published": published, "confirmed": confirmed, "heard": heard}
        return [
            *(f"{slug} was accepted" for slug, id_ in accepted.items() if id_ not in tenants),
            *(f"{what} as {at}: {id_}" for what in told for id_, at in told[what].items() if stream.get(at) != id_),
            *([f"the stream was read up to {read['upto']}"] if read["upto"] > max(stream, default=0) else []),
        ]

    async def finish(self) -> None:
        """Return when all that customers have asked for is done."""
        self._closing = True
        async with asyncio.timeout(60), httpx.AsyncClient(**self._http, timeout=5) as client:
            await asyncio.gather(*self._customers)

            async def at_rest() -> bool:
                seen = (await client.get("/v1/operations")).json()
                return (seen["outbox_waiting"], seen["lag"], seen["parked"]) == (0, {"reader": 0}, 0)

            await until(at_rest, timeout_s=60)

    async def stream(self) -> list[tuple[int, dict[str, str], dict]]:
        """Every fact: its place, headers and payload. Nothing, when even the stream is gone."""
        client = await self._connected("operator")
        feed = OrderedConsumer(client, EVENTS, ["paybill.events.>"], 1)
        facts = []
        try:
            while await feed.pending():
                facts += [(stream_sequence(m), m.headers, json.loads(m.data)) for m in await feed.fetch(1)]
        except NotFoundError:
            return []
        finally:
            await feed.close()
            await client.close()
        return facts

    async def _waiting(self) -> set[str]:
        return {str(row["event_id"]) for row in await self._rows(WAITING)}

    async def _places(self, query: str) -> dict[str, int]:
        return {str(row["event_id"]): row["sequence"] for row in await self._rows(query)}

    async def _connection(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.postgres.url("tenant"), password=self._passwords["postgres", "tenant"])

    async def _rows(self, query: str) -> list[asyncpg.Record]:
        connection = await self._connection()
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()

    def _made_settings(self) -> dict[str, str]:
        key = make_key("test", "test", Role.ADMIN, ("*",), datetime.now(UTC) + timedelta(days=1))
        (self._folder / "keys.json").write_text(json.dumps({"keys": [key.stored]}))
        for name in ("tenant", "billing", "provisioner"):
            make_identity(self._folder / "identities", name)
        for name in SERVERS:
            (self._folder / f"{name}-password").write_text(self._passwords[name, "tenant"])
        port = free_port()
        self._http = {"base_url": f"http://127.0.0.1:{port}", "headers": {"Authorization": f"Bearer {key.raw}"}}
        settings = {
            "database_url": self.postgres.url("tenant"),
            "database_password_file": self._folder / "postgres-password",
            "nats_url": self.nats.url,
            "nats_user": "tenant",
            "nats_password_file": self._folder / "nats-password",
            "http_port": port,
            "api_keys_file": self._folder / "keys.json",
            "identity_dir": self._folder / "identities",
            "secrets_dir": self._folder,
            "lease_s": 1,
            "log_level": "WARNING",
        }
        return {f"PAYBILL_{name.upper()}": str(value) for name, value in settings.items()}

    def _start_service(self) -> None:
        with (self._folder / "service.log").open("ab") as log:
            command = [sys.executable, "-m", "paybill_tenant"]
            self._service = subprocess.Popen(command, env=os.environ | self._settings, stdout=log, stderr=log)

    async def _start(self, names) -> None:
        await asyncio.gather(*(asyncio.to_thread(self.servers[name].start) for name in names))

    async def _connected(self, user: str):
        return await connect(self.nats.url, user, self._passwords["nats", user])

    async def _be_customers(self) -> None:
        """One after the other: asked for until it is accepted, then registered until the stream has said so."""
        async with httpx.AsyncClient(**self._http, timeout=5) as client:
            while not self._closing:
                slug = f"tenant-{next(self._numbers)}"
                while slug not in self.accepted:
                    await self._sign_up(client, slug)
                for retention_s in RETENTIONS_S:
                    await self._publish(self._registered(self.accepted[slug], retention_s))

    async def _sign_up(self, client, slug: str) -> None:
        """Ask once. The key makes it safe to ask again, whatever came of this."""
        body = {"slug": slug, "name": slug, "plan": "pro", "region": "eu-1", "contact_email": f"{slug}@x.example"}
        try:
            answer = await client.post("/v1/tenants", json=body, headers={"Idempotency-Key": f"sign-up-{slug}"})
        except httpx.TransportError:
            await asyncio.sleep(0.1)
            return
        if answer.status_code == 202:
            self.accepted[slug] = answer.json()["id"]
            return
        # 422 at the beginning, until the service has heard what is offered.
        assert answer.status_code in {422, 429, 503}, answer.text
        await asyncio.sleep(0.1)

    async def _publish(self, event) -> None:
        """Say it until the stream has confirmed it, under one id."""
        cause = new_id()
        fact = Fact(event, new_id(), datetime.now(UTC), 1, Origin(cause, cause, f"service:{event.OWNER}", child("")))
        while fact.id not in self.published:
            try:
                bus = await self._bus(event.OWNER)
                stored = await bus.jetstream().publish(
                    subject_of(event), encode(event), timeout=2, headers=headers_of(fact)
                )
                self.published[fact.id] = stored.seq
            except (NatsError, JetStreamError, OSError, TimeoutError):
                await asyncio.sleep(0.1)

    async def _bus(self, user: str) -> Client:
        async with self._connecting:
            if user not in self._buses or not self._buses[user].is_connected:
                self._buses[user] = await self._connected(user)
            return self._buses[user]


@pytest.fixture
def disks(tmp_path):
    """A disk for each server; skipped loudly where this machine cannot cut their power."""
    with ExitStack() as stack:
        made = {}
        for name in SERVERS:
            try:
                made[name] = Disk(tmp_path, name)
                made[name].mount()
            except OSError as error:
                pytest.skip(f"NO POWER CUTS HERE: they need root, mkfs.ext4 and loop devices ({error})")
            stack.callback(made[name].unmount)
        yield made


@pytest.fixture
async def world(tmp_path, disks, registered):
    made = World(tmp_path, disks, registered)
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("names", [("nats",), ("postgres",), SERVERS], ids=["NATS", "PostgreSQL", "both"])
async def test_what_was_acknowledged_before_a_power_cut_is_there_afterwards_and_happens_once(
    world, names, offerings
) -> None:
    """The service reads throughout: what JetStream had noted of its consumers is gone after each cut of NATS."""
    dice = random.Random(len(names))
    await world.open(offerings)
    for number in range(CUTS):
        await asyncio.sleep(dice.uniform(0, 0.1))
        assert await world.cut(*names, before_marking=names == SERVERS and number % 2 == 1) == []
        await world.more()
    await world.finish()

    facts = await world.stream()
    lives = {id_: [] for id_ in world.accepted.values()}
    for _, headers, payload in facts:
        if headers["ce-source"] == "paybill/tenant" and headers["pb-aggregate"].startswith("tenant/"):
            lives[headers["pb-tenant"]].append((headers["pb-revision"], payload.get("retention_s")))
    assert len({headers["ce-id"] for _, headers, _ in facts}) == len(facts)
    assert not [life for life in lives.values() if life != [("1", None), ("2", 86_400), ("3", 172_800)]]
    assert world.overdue > world.recognised, "the load was too light for a cut to interrupt anything"
    assert world.recognised > 0 or names != SERVERS


async def test_nats_with_its_default_sync_interval_is_caught(world, offerings) -> None:
    await world.open(offerings)
    await asyncio.to_thread(restart_with_default_sync_interval, world.nats)
    os.sync()
    await world.more()

    losses = await world.cut("nats")

    assert [loss for loss in losses if loss.startswith("published")]


def restart_with_default_sync_interval(nats: NatsServer) -> None:
    nats.stop()
    conf = nats.data_dir / "nats" / "nats-server.conf"
    safe = conf.read_text()
    conf.write_text(safe.replace("sync_interval: always", ""))
    assert conf.read_text() != safe
    with sole_server(conf.parent) as lock:
        nats._child = Child([Path(sys.executable).with_name("nats-server"), "--config", conf], nats.log, lock)
    assert nats._child.wait_until(nats._answers, 10)


async def test_postgresql_with_fsync_off_is_caught(world, offerings) -> None:
    await world.open(offerings)
    url, password = world.postgres.url("postgres", "postgres"), world.postgres.password("postgres")
    operator = await asyncpg.connect(url, password=password)
    await operator.execute("ALTER SYSTEM SET fsync = off")
    await operator.execute("SELECT pg_reload_conf()")
    await operator.close()
    os.sync()
    await world.more()

    losses = await world.cut("postgres")

    assert [loss for loss in losses if "was accepted" in loss or "does not come back" in loss]
