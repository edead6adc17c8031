"""The power fails under load: what was acknowledged before is there afterwards, on either server and on both at once.

The servers' data is on ext4 in files. Its page cache is not in these files, so a copy of one, taken while the server
stands still, is the disk that a machine without power would come back with.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import asyncpg
import httpx
import paybill_embedded.nats
import paybill_embedded.postgres
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_embedded import EmbeddedError, NatsServer, PostgresServer, free_port
from paybill_runtime.auth import Role, make_key
from paybill_runtime.clock import new_id
from paybill_runtime.feed import Feed, stream_sequence
from paybill_runtime.identity import make_identity
from paybill_runtime.streams import EVENTS, connect, ensure
from paybill_runtime.telemetry import child
from paybill_runtime.testing import until

CUTS = 10
CUSTOMERS = 8
RETENTIONS_S = (86_400, 172_800)
"""What is said about each account, in turn: the first one applied again after the second would be news again."""
DISK_BYTES = 2 * 1024**3
"""Sparse; the stream INTAKE reserves half of it."""
SERVERS = ("nats", "postgres")


def run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{command[0]}: {done.stderr.strip() or done.returncode}")


class Disk:
    """An ext4 file system in a file. Its journal is committed when somebody calls fsync, and not by the clock."""

    def __init__(self, folder: Path, name: str) -> None:
        self.place, self._image, self._copy = (folder / f"{name}{end}" for end in ("", ".img", ".copy"))
        self.place.mkdir()
        with self._image.open("wb") as file:
            file.truncate(DISK_BYTES)
        run("mkfs.ext4", "-q", "-F", "-N", 8192, "-E", "lazy_itable_init=0", self._image)

    def mount(self) -> None:
        """The kernel frees the loop device by itself as soon as it is unmounted."""
        run("mount", "-t", "ext4", "-o", "loop,noatime,commit=300", self._image, self.place)

    def unmount(self) -> None:
        deadline = time.monotonic() + 5
        while os.path.ismount(self.place):
            try:
                run("umount", self.place)
            except OSError:  # a process on its way out still has a file open
                if time.monotonic() > deadline:
                    run("umount", "--lazy", self.place)
                    raise
                time.sleep(0.02)

    def keep_what_reached_it(self) -> None:
        """Copy the device as it is at one instant: again, if anything was written to it meanwhile."""
        before = None
        while before != (now := self._writes()):
            before = now
            run("cp", "--sparse=always", self._image, self._copy)

    def lose_the_rest(self) -> None:
        self.unmount()
        self._copy.rename(self._image)
        self.mount()

    def _writes(self) -> list[str]:
        mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
        device = next(device for device, place, *_ in mounts if place == str(self.place))
        numbers = Path(f"/sys/class/block/{Path(device).name}/stat").read_text().split()
        return [numbers[4], numbers[8]]  # done and under way, by the kernel's Documentation/block/stat.rst


def with_children(pid: int) -> list[int]:
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def hold(pids: list[int]) -> None:
    """Stop these processes and their children; returns when no thread of theirs runs, or writes, any more."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # before its children, so that it starts no others
        for each in with_children(pid)[1:]:
            os.kill(each, signal.SIGSTOP)
    threads = [thread for pid in pids for each in with_children(pid) for thread in Path(f"/proc/{each}/task").iterdir()]
    while any((thread / "stat").read_text().rpartition(")")[2].split()[0] != "T" for thread in threads):
        time.sleep(0.001)


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
        self._customers = [asyncio.create_task(self._be_customers()) for _ in range(CUSTOMERS)]
        await self.more()

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
        """Return when the load has gone on for a while."""
        accepted, published = len(self.accepted) + 20, len(self.published) + 20

        async def enough() -> bool:
            for task in self._customers:
                if task.done():
                    task.result()
            return len(self.accepted) >= accepted and len(self.published) >= published

        await until(enough, timeout_s=30)

    async def cut(self, *names: str) -> list[str]:
        """No power for these servers, and then again; with all of them goes the service. What it cost."""
        accepted, published = dict(self.accepted), dict(self.published)
        await asyncio.to_thread(self._cut, names)
        try:
            await self._start(names)
        except EmbeddedError as error:
            return [f"a server does not come back: {error}"]
        if names == SERVERS:
            self._start_service()
        return await self._losses(accepted, published)

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
        waiting = await self._places("SELECT event_id, 0 AS sequence FROM chassis.outbox WHERE sequence IS NULL")
        heard = await self._places("SELECT event_id, sequence FROM chassis.inbox")
        (read,) = await self._rows("SELECT coalesce(max(sequence), 0) AS upto FROM chassis.position")
        stream = {sequence: headers["ce-id"] for sequence, headers, _ in await self.stream()}
        self.overdue += len(waiting)
        self.recognised += len(waiting.keys() & set(stream.values()))
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
        feed = Feed(client, EVENTS, ["paybill.events.>"], 1)
        facts = []
        try:
            while await feed.pending():
                facts += [(stream_sequence(m), m.headers, json.loads(m.data)) for m in await feed.next(1)]
        except NotFoundError:
            return []
        finally:
            await feed.close()
            await client.close()
        return facts

    async def _places(self, query: str) -> dict[str, int]:
        return {str(row["event_id"]): row["sequence"] for row in await self._rows(query)}

    async def _rows(self, query: str) -> list[asyncpg.Record]:
        password = self._passwords["postgres", "tenant"]
        connection = await asyncpg.connect(self.postgres.url("tenant"), password=password)
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()

    def _made_settings(self) -> dict[str, str]:
        key = make_key("test", "test", Role.ADMIN, ("*",), datetime.now(UTC) + timedelta(days=1))
        (self._folder / "keys.json").write_text(json.dumps({"keys": [key.kept]}))
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
    for _ in range(CUTS):
        await asyncio.sleep(dice.uniform(0, 0.1))
        assert await world.cut(*names) == []
        await world.more()
    await world.finish()

    facts = await world.stream()
    lives = {id_: [] for id_ in world.accepted.values()}
    for _, headers, payload in facts:
        if headers["ce-source"] == "paybill/tenant" and headers["pb-aggregate"].startswith("tenant/"):
            lives[headers["pb-tenant"]].append((headers["pb-revision"], payload.get("retention_s")))
    assert len({headers["ce-id"] for _, headers, _ in facts}) == len(facts)
    assert not [life for life in lives.values() if life != [("1", None), ("2", 86_400), ("3", 172_800)]]
    assert world.overdue > 0 or names == ("nats",), "the load was too light for a cut to interrupt anything"


async def test_nats_with_its_default_sync_interval_is_caught(world, offerings, monkeypatch) -> None:
    render = paybill_embedded.nats.render_conf
    monkeypatch.setattr(
        paybill_embedded.nats, "render_conf", lambda *a, **k: render(*a, **k).replace("sync_interval: always", "")
    )
    await world.open(offerings)
    os.sync()
    await world.more()

    losses = await world.cut("nats")

    assert len([loss for loss in losses if loss.startswith("published")]) >= 20


async def test_postgresql_with_fsync_off_is_caught(world, offerings, monkeypatch) -> None:
    monkeypatch.setattr(
        paybill_embedded.postgres,
        "_POSTGRESQL_CONF",
        paybill_embedded.postgres._POSTGRESQL_CONF + "fsync = off\n",
    )
    await world.open(offerings)
    os.sync()
    await world.more()

    losses = await world.cut("postgres")

    assert len([loss for loss in losses if "was accepted" in loss]) >= 20 or "does not come back" in losses[0]
