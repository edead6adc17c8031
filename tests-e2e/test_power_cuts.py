"""Power cuts under load: acknowledged data is present afterwards, on either server and on both at once."""

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
from paybill_contracts.envelope import Fact, Origin, headers_of
from paybill_embedded import EmbeddedError, NatsServer, PostgresServer, free_port
from paybill_embedded.child import Child
from paybill_embedded.lock import sole_server
from paybill_runtime.clock import new_id
from paybill_runtime.http.auth import Role, make_key
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect, ensure
from paybill_runtime.telemetry import child
from paybill_runtime.testing import cancel, stop_processes, until
from paybill_runtime.testing.signing import make_test_identity, publish_fact
from power import Disk

CUTS = 10
CUSTOMERS = 8
PROGRESS = 20
"""Minimum of accepted, published, handled and confirmed messages between two cuts."""
RETENTIONS_S = (86_400, 172_800)
"""Alternating retentions per account: handling the first again after the second would change the state."""
SERVERS = ("nats", "postgres")
PUBLICATIONS = "chassis.outbox JOIN chassis.publication USING (position)"
UNMARKED = f"SELECT event_id FROM {PUBLICATIONS} WHERE sequence IS NULL"


class Deployment:
    """Both servers, each on a separate disk, the tenant service as a process, and customers under constant load.

    accepted: tenants by slug, once HTTP returned 202. published: sequences of facts by id, once the stream confirmed
    them. unmarked_at_cuts: facts that were committed and not marked as published at a cut; recognised: those of them
    that the stream had.
    """

    def __init__(self, folder: Path, disks: dict[str, Disk], registered) -> None:
        self.nats = NatsServer(disks["nats"].path / "data")
        self.postgres = PostgresServer(disks["postgres"].path / "data")
        self.servers = {"nats": self.nats, "postgres": self.postgres}
        self.accepted: dict[str, str] = {}
        self.published: dict[str, int] = {}
        self.unmarked_at_cuts = self.recognised = 0
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
        self._settings = self._create_settings()
        self._start_service()
        for event in offerings:
            await self._publish(event)
        await until(self._is_ready, timeout_s=30)
        self._customers = [asyncio.create_task(self._run_customer()) for _ in range(CUSTOMERS)]
        await self.wait_for_progress()

    async def _is_ready(self) -> bool:
        async with httpx.AsyncClient(**self._http) as client:
            try:
                return (await client.get("/readyz")).is_success
            except httpx.TransportError:
                return False

    async def close(self) -> None:
        await cancel(*self._customers)
        for bus in self._buses.values():
            await bus.close()
        if self._service:
            self._service.kill()
            self._service.wait()
        for server in self.servers.values():
            server.kill()

    async def wait_for_progress(self) -> None:
        """Returns after progress everywhere: requests, facts of others, handled and published facts."""
        targets = [number + PROGRESS for number in await self._progress()]

        async def enough() -> bool:
            for customer in self._customers:
                if customer.done():
                    customer.result()
            return all(map(int.__ge__, await self._progress(), targets))

        await until(enough, timeout_s=30)

    async def _progress(self) -> list[int]:
        (row,) = await self._rows(
            "SELECT (SELECT count(*) FROM chassis.inbox) AS handled, "
            "(SELECT count(*) FROM chassis.publication WHERE sequence IS NOT NULL) AS confirmed"
        )
        return [len(self.accepted), len(self.published), *row.values()]

    async def cut(self, *names: str, before_marking: bool = False) -> list[str]:
        """Cuts the power of these servers and restores it; cutting all includes the service. Returns the losses."""
        lock = await self._block_marking() if before_marking else None
        accepted, published = dict(self.accepted), dict(self.published)
        await asyncio.to_thread(self._cut, names)
        if lock is not None:
            lock.terminate()
        try:
            await self._start(names)
        except EmbeddedError as error:
            return [f"a server did not restart: {error}"]
        if names == SERVERS:
            self._start_service()
        return await self._losses(accepted, published)

    async def _block_marking(self) -> asyncpg.Connection:
        """Locks the relay's lease; returns when the stream holds facts that the relay cannot mark."""
        lock = await self._connection()
        await lock.execute("BEGIN; SELECT FROM chassis.lease WHERE name = 'relay' FOR UPDATE")

        async def unmarked() -> bool:
            return bool((await self._unmarked()) & {headers["ce-id"] for _, headers, _ in await self.stream()})

        await until(unmarked)
        return lock

    def _cut(self, names) -> None:
        machine = names == SERVERS
        stop_processes([self.servers[name].pid for name in names] + ([self._service.pid] if machine else []))
        for name in names:
            self._disks[name].take_snapshot()
        for name in names:
            self.servers[name].kill()
        if machine:
            self._service.kill()
            self._service.wait()
        for name in names:
            self._disks[name].restore_snapshot()

    async def _losses(self, accepted: dict[str, str], published: dict[str, int]) -> list[str]:
        """Returns acknowledged data that is missing. PostgreSQL is read first, since it refers to the stream."""
        tenants = {row["id"] for row in await self._rows("SELECT id FROM tenants")}
        confirmed = await self._sequences(f"SELECT event_id, sequence FROM {PUBLICATIONS} WHERE sequence IS NOT NULL")
        unmarked = await self._unmarked()
        handled = await self._sequences("SELECT event_id, sequence FROM chassis.inbox")
        (read,) = await self._rows("SELECT coalesce(max(sequence), 0) AS upto FROM chassis.position")
        stream = {sequence: headers["ce-id"] for sequence, headers, _ in await self.stream()}
        self.unmarked_at_cuts += len(unmarked)
        self.recognised += len(unmarked & set(stream.values()))
        acknowledged = {"published": published, "confirmed": confirmed, "handled": handled}
        return [
            *(f"{slug} was accepted" for slug, id_ in accepted.items() if id_ not in tenants),
            *(
                f"{what} as {at}: {id_}"
                for what in acknowledged
                for id_, at in acknowledged[what].items()
                if stream.get(at) != id_
            ),
            *([f"the stream was consumed up to {read['upto']}"] if read["upto"] > max(stream, default=0) else []),
        ]

    async def finish(self) -> None:
        """Returns when all requests of the customers are finished."""
        self._closing = True
        async with asyncio.timeout(60), httpx.AsyncClient(**self._http, timeout=5) as client:
            await asyncio.gather(*self._customers)

            async def is_idle() -> bool:
                overview = (await client.get("/v1/operations")).json()
                return (overview["outbox_waiting"], overview["lag"], overview["parked"]) == (0, {"reader": 0}, 0)

            await until(is_idle, timeout_s=60)

    async def stream(self) -> list[tuple[int, dict[str, str], dict]]:
        """Returns every fact: sequence, headers and payload; an empty list if even the stream is missing."""
        client = await self._connected("operator")
        consumer = OrderedConsumer(client, EVENTS, ["paybill.events.>"], 1)
        facts = []
        try:
            while await consumer.pending():
                facts += [(stream_sequence(m), m.headers, json.loads(m.data)) for m in await consumer.fetch(1)]
        except NotFoundError:
            return []
        finally:
            await consumer.close()
            await client.close()
        return facts

    async def _unmarked(self) -> set[str]:
        return {str(row["event_id"]) for row in await self._rows(UNMARKED)}

    async def _sequences(self, query: str) -> dict[str, int]:
        return {str(row["event_id"]): row["sequence"] for row in await self._rows(query)}

    async def _connection(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.postgres.url("tenant"), password=self._passwords["postgres", "tenant"])

    async def _rows(self, query: str) -> list[asyncpg.Record]:
        connection = await self._connection()
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()

    def _create_settings(self) -> dict[str, str]:
        key = make_key("test", "test", Role.ADMIN, ("*",), datetime.now(UTC) + timedelta(days=1))
        (self._folder / "keys.json").write_text(json.dumps({"keys": [key.stored]}))
        for name in ("tenant", "billing", "provisioner"):
            make_test_identity(self._folder / "identities", name)
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

    async def _run_customer(self) -> None:
        """Signs up customers one by one, each until it is accepted, then registered until the stream confirmed it."""
        async with httpx.AsyncClient(**self._http, timeout=5) as client:
            while not self._closing:
                slug = f"tenant-{next(self._numbers)}"
                while slug not in self.accepted:
                    await self._sign_up(client, slug)
                for retention_s in RETENTIONS_S:
                    await self._publish(self._registered(self.accepted[slug], retention_s))

    async def _sign_up(self, client, slug: str) -> None:
        """Sends one request. The idempotency key makes repeats safe, whatever its outcome."""
        body = {"slug": slug, "name": slug, "plan": "pro", "region": "eu-1", "contact_email": f"{slug}@x.example"}
        try:
            response = await client.post("/v1/tenants", json=body, headers={"Idempotency-Key": f"sign-up-{slug}"})
        except httpx.TransportError:
            await asyncio.sleep(0.1)
            return
        if response.status_code == 202:
            self.accepted[slug] = response.json()["id"]
            return
        # 422 at the beginning, until the service has handled the offerings.
        assert response.status_code in {422, 429, 503}, response.text
        await asyncio.sleep(0.1)

    async def _publish(self, event) -> None:
        """Publishes until the stream confirms it, under one id."""
        cause = new_id()
        fact = Fact(event, new_id(), datetime.now(UTC), 1, Origin(cause, cause, f"service:{event.OWNER}", child("")))
        while fact.id not in self.published:
            try:
                bus = await self._bus(event.OWNER)
                self.published[fact.id] = await publish_fact(bus, event, headers_of(fact))
            except (NatsError, JetStreamError, OSError, TimeoutError):
                await asyncio.sleep(0.1)

    async def _bus(self, user: str) -> Client:
        async with self._connecting:
            if user not in self._buses or not self._buses[user].is_connected:
                self._buses[user] = await self._connected(user)
            return self._buses[user]


@pytest.fixture
def disks(tmp_path):
    """Creates a disk for each server; skips with a clear message where power cuts cannot be simulated."""
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
async def deployment(tmp_path, disks, registered):
    made = Deployment(tmp_path, disks, registered)
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("names", [("nats",), ("postgres",), SERVERS], ids=["NATS", "PostgreSQL", "both"])
async def test_acknowledged_data_survives_power_cuts_and_is_processed_once(deployment, names, offerings) -> None:
    """The service consumes throughout: JetStream's unsynced consumer state is lost after each cut of NATS."""
    rng = random.Random(len(names))
    await deployment.open(offerings)
    for number in range(CUTS):
        await asyncio.sleep(rng.uniform(0, 0.1))
        assert await deployment.cut(*names, before_marking=names == SERVERS and number % 2 == 1) == []
        await deployment.wait_for_progress()
    await deployment.finish()

    facts = await deployment.stream()
    histories = {id_: [] for id_ in deployment.accepted.values()}
    for _, headers, payload in facts:
        if headers["ce-source"] == "paybill/tenant" and headers["pb-aggregate"].startswith("tenant/"):
            histories[headers["pb-tenant"]].append((headers["pb-revision"], payload.get("retention_s")))
    assert len({headers["ce-id"] for _, headers, _ in facts}) == len(facts)
    assert not [history for history in histories.values() if history != [("1", None), ("2", 86_400), ("3", 172_800)]]
    assert deployment.unmarked_at_cuts > deployment.recognised, "the load was too light for a cut to interrupt anything"
    assert deployment.recognised > 0 or names != SERVERS


async def test_the_test_detects_nats_with_its_default_sync_interval(deployment, offerings) -> None:
    await deployment.open(offerings)
    await asyncio.to_thread(restart_with_default_sync_interval, deployment.nats)
    os.sync()
    await deployment.wait_for_progress()

    losses = await deployment.cut("nats")

    assert [loss for loss in losses if loss.startswith("published")]


def restart_with_default_sync_interval(nats: NatsServer) -> None:
    nats.stop()
    conf = nats.data_dir / "nats" / "nats-server.conf"
    safe = conf.read_text()
    conf.write_text(safe.replace("sync_interval: always", ""))
    assert conf.read_text() != safe
    with sole_server(conf.parent) as lock:
        nats._child = Child([Path(sys.executable).with_name("nats-server"), "--config", conf], nats.log, lock)
    assert nats._child.wait_until(nats._responds, 10)


async def test_the_test_detects_postgresql_with_fsync_off(deployment, offerings) -> None:
    await deployment.open(offerings)
    url, password = deployment.postgres.url("postgres", "postgres"), deployment.postgres.password("postgres")
    operator = await asyncpg.connect(url, password=password)
    await operator.execute("ALTER SYSTEM SET fsync = off")
    await operator.execute("SELECT pg_reload_conf()")
    await operator.close()
    os.sync()
    await deployment.wait_for_progress()

    losses = await deployment.cut("postgres")

    assert [loss for loss in losses if "was accepted" in loss or "did not restart" in loss]
