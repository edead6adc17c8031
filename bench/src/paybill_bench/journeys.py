"""Tenants who have signed up and are about to pay, in a stack of real services; and how long it takes them to start."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any, Self

import httpx
from nats.aio.msg import Msg
from paybill_embedded.nats import NatsServer
from paybill_embedded.ports import free_port
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_stack.access import BusAccess, DatabaseAccess
from paybill_stack.environment import (
    Addresses,
    inherited,
    service_command,
    service_environment,
    stripe_fake_command,
)
from paybill_stack.layout import SERVICES, STRIPE_FAKE, Layout
from paybill_stack.operator_key import operator_key
from paybill_stack.prepare import prepare
from paybill_stack.process import Process
from paybill_stripe_fake.client import FakeControl

from paybill_bench import provider
from paybill_bench.lab import BenchmarkError, Lab, child
from paybill_bench.press import Door, signed

SENDERS = 32
"""Webhooks that are on their way at the same time."""
ACTIVATED = "tenant.tenant_activated"
_OPENED = "billing.account_opened"
_CALLERS = 12
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Webhook:
    """What the provider will say once the tenant has paid, not yet signed."""

    tenant: str
    body: str


class Stack:
    """The services, each a process; billing asks the stand-in, or the recorded answers once `record` was called.

    environment: of billing, beside what `paybill up` gives it.
    """

    def __init__(self, lab: Lab, bus: NatsServer, **environment: str) -> None:
        self._environment_of_billing = environment
        self._lab = lab
        self._bus = bus
        self._recorded = False
        self._layout = Layout(lab.folder / "stack")
        self._provider_port = free_port()
        self._at = Addresses(
            BusAccess(bus.url, bus.data_dir / "credentials"),
            DatabaseAccess("127.0.0.1", lab.postgres.port, lab.postgres.data_dir / "credentials"),
            {name: free_port() for name in (*SERVICES, STRIPE_FAKE)},
        )
        self._processes: dict[str, Process] = {}
        self._numbers = count(1)
        self._key = ""
        self._sessions: dict[str, str] = {}

    async def start(self) -> None:
        """Everything, until it is ready."""
        prepare(self._layout)
        self._key = operator_key(self._layout.api_keys, datetime.now(UTC), new=True) or ""
        command = stripe_fake_command(self._layout, self._at)
        cut = command.index("--webhook-url")  # what it would say is said by us, when the clock runs
        await self._run(STRIPE_FAKE, command[:cut], inherited())
        for name in SERVICES:
            await self._run(name, service_command(name), self._environment(name))
        for name in (STRIPE_FAKE, *SERVICES):
            await self._ready(name)

    async def stop(self) -> None:
        """Services first."""
        await asyncio.gather(*(self._processes[name].stop(10) for name in SERVICES if name in self._processes))
        for process in self._processes.values():
            await process.stop(5)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Nothing of ours runs in the block: also what only polls would slow a peer."""
        pids = [pid for pid in self.pids().values() if pid is not None]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            for name in self._processes:
                await self._ready(name)
            await asyncio.sleep(1)

    def pids(self) -> Mapping[str, int | None]:
        """Of the services and the stand-in."""
        return {name: process.pid for name, process in self._processes.items()}

    @property
    def door(self) -> Door:
        """Where billing takes webhooks."""
        return Door(self._at.ports["billing"], self._layout.stripe_webhook_secrets)

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[httpx.AsyncClient]:
        """The stand-in, as Stripe's API."""
        key = self._layout.stripe_api_key.read_text(encoding="utf-8").strip()
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=self._at.url(STRIPE_FAKE), headers=headers, trust_env=False) as client:
            yield client

    def _environment(self, name: str, **more: str) -> dict[str, str]:
        own = self._environment_of_billing if name == "billing" else {}
        return service_environment(name, self._layout, self._at) | own | more

    async def _run(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._processes[name] = Process(name, command, environment, self._layout.log(name))
        await self._processes[name].start()

    async def _ready(self, name: str) -> None:
        path = "/healthz" if name == STRIPE_FAKE else "/readyz"
        begin = time.monotonic()
        async with httpx.AsyncClient(base_url=self._at.url(name), trust_env=False) as client:
            while True:
                try:
                    answer = (await client.get(path)).json()
                    if answer.get("status") == "ok":
                        return
                except (httpx.HTTPError, ValueError):
                    pass
                if self._processes[name].pid is None or time.monotonic() - begin > _PATIENCE_S:
                    raise BenchmarkError(f"{name} does not start: {self._processes[name].gist()}")
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def recorded(self, plans: Sequence[str]) -> AsyncIterator[None]:
        """Billing asks the recorded answers while the block runs. One tenant of each plan has paid for that before."""
        path = self._lab.folder / "recorded.json"
        path.write_text(json.dumps(await self._record(plans)), encoding="utf-8")
        log = self._lab.folder / "child.log"
        with child("paybill_bench.provider", str(path), str(self._provider_port), log=log):
            await self._processes["billing"].stop(10)
            url = f"http://127.0.0.1:{self._provider_port}"
            await self._run(
                "billing", service_command("billing"), self._environment("billing", PAYBILL_STRIPE_API_BASE=url)
            )
            await self._ready("billing")
            self._recorded = True
            yield

    async def _record(self, plans: Sequence[str]) -> dict[str, Any]:
        """What the stand-in says about a tenant of each plan, with ids that can be told apart."""
        said: dict[str, Any] = {"prices": {}, "subscriptions": {}}
        async with self.provider() as client:
            for plan in plans:
                session = json.loads(self._sessions[plan])
                found = (await client.get(f"/v1/subscriptions/{session['subscription']}")).json()
                ids = {
                    session["client_reference_id"]: provider.TENANT,
                    session["customer"]: provider.CUSTOMER,
                    session["subscription"]: provider.SUBSCRIPTION,
                }
                price = found["items"]["data"][0]["price"]
                said["prices"][price["lookup_key"]] = json.dumps(price)
                said["subscriptions"][plan] = _renamed(json.dumps(found), ids)
                said["customer"] = _renamed((await client.get(f"/v1/customers/{session['customer']}")).text, ids)
                said["session"] = _renamed(
                    json.dumps(session | {"subscription": None, "url": "http://127.0.0.1/"}), ids
                )
        return said

    async def sign_up(self, plan: str, amount: int) -> list[Webhook]:
        """Tenants whose accounts are open, and what the provider will say when they have paid."""
        opened = await self._opened(plan, amount)
        if self._recorded:
            return [Webhook(tenant, self._paid(plan, tenant)) for tenant in opened]
        key = self._layout.stripe_api_key.read_text(encoding="utf-8").strip()
        with FakeControl(self._at.url(STRIPE_FAKE), key) as control:
            webhooks = []
            for tenant, checkout in opened.items():
                session = await asyncio.to_thread(control.pay_checkout, checkout)
                self._sessions[plan] = json.dumps(session)
                webhooks.append(Webhook(tenant, _event(session, tenant)))
        return webhooks

    def _paid(self, plan: str, tenant: str) -> str:
        digits = tenant.removeprefix("ten_")
        session = json.loads(self._sessions[plan])
        of_tenant = {"customer": f"cus_{digits}", "subscription": f"sub_{plan}_{digits}", "client_reference_id": tenant}
        return _event(session | of_tenant, tenant)

    async def _opened(self, plan: str, amount: int) -> dict[str, str]:
        """Sign up so many; the tenants and their checkouts."""
        left = iter([next(self._numbers) for _ in range(amount)])
        wanted: set[str] = set()
        found: dict[str, str] = {}
        async with (
            self.reading(_OPENED) as feed,
            httpx.AsyncClient(
                base_url=self._at.url("tenant"),
                headers={"Authorization": f"Bearer {self._key}"},
                trust_env=False,
                timeout=30,
            ) as client,
        ):

            async def call() -> None:
                for number in left:
                    wanted.add(await _request(client, plan, number))

            await asyncio.gather(*(call() for _ in range(_CALLERS)))
            async with asyncio.timeout(_PATIENCE_S):
                while wanted - found.keys():
                    for message in await feed.fetch(1.0):
                        fact = json.loads(message.data)
                        found[fact["tenant_id"]] = fact["checkout"]
        return {tenant: found[tenant] for tenant in wanted}

    @asynccontextmanager
    async def reading(self, *types: str) -> AsyncIterator[OrderedConsumer]:
        """Facts of these types from now on."""
        client = await connect(self._bus.url, "operator", self._bus.password("operator"))
        last = (await client.jetstream().stream_info(EVENTS)).state.last_seq
        feed = OrderedConsumer(client, EVENTS, [f"paybill.events.*.{type_}.*" for type_ in types], last + 1)
        await feed.pending()
        try:
            yield feed
        finally:
            await feed.close()
            await client.close()

    async def start_all(self, webhooks: Sequence[Webhook]) -> float:
        """Send every webhook; seconds from the first byte to the last tenant that is active in the log."""
        secret = self._layout.stripe_webhook_secrets.read_text(encoding="utf-8").strip()
        requests = iter([signed(webhook.body, secret) for webhook in webhooks])
        clock = asyncio.get_running_loop().time
        left = {webhook.tenant for webhook in webhooks}
        async with self.reading(ACTIVATED) as feed, Senders(self._at.ports["billing"], SENDERS) as senders:
            begin = clock()
            sending = asyncio.create_task(senders.send(requests))
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    while left:
                        left.difference_update(_tenant(message) for message in await feed.fetch(1.0))
            except TimeoutError:
                raise BenchmarkError(f"{len(left)} of {len(webhooks)} tenants do not become active") from None
            taken = clock() - begin
            await sending
        return taken

    async def one_by_one(self, webhooks: Sequence[Webhook]) -> tuple[list[float], list[dict[str, float]]]:
        """Milliseconds of each journey alone, and when each fact on its way was decided."""
        secret = self._layout.stripe_webhook_secrets.read_text(encoding="utf-8").strip()
        taken, ways = [], []
        async with self.reading("*.*") as feed, Senders(self._at.ports["billing"], 1) as senders:
            for webhook in webhooks:
                way: dict[str, float] = {}
                begin = time.time()
                sending = asyncio.create_task(senders.send(iter([signed(webhook.body, secret)])))
                async with asyncio.timeout(_PATIENCE_S):
                    while ACTIVATED not in way:
                        for message in await feed.fetch(1.0):
                            if _tenant(message) == webhook.tenant:
                                at = datetime.fromisoformat((message.headers or {})["ce-time"]).timestamp()
                                way[message.subject.split(".", 3)[3].rpartition(".")[0]] = (at - begin) * 1000
                taken.append((time.time() - begin) * 1000)
                ways.append(way)
                await sending
                await asyncio.sleep(0.1)
        return taken, ways


class Senders:
    """Connections that are kept, and say what they are given: a client that costs the machine little."""

    def __init__(self, port: int, amount: int) -> None:
        self._port = port
        self._amount = amount
        self._open: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        for _ in range(self._amount):
            self._open.append(await asyncio.open_connection("127.0.0.1", self._port))
        return self

    async def __aexit__(self, *_: object) -> None:
        for __, writer in self._open:
            writer.close()

    async def send(self, requests: Iterator[bytes]) -> None:
        """All of them, each connection one after the other."""

        async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for request in requests:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                answer = await reader.readexactly(length)
                if not head.startswith(b"HTTP/1.1 200"):
                    raise BenchmarkError(f"a webhook was refused: {answer.decode(errors='replace')[:300]}")

        await asyncio.gather(*(work(reader, writer) for reader, writer in self._open))


async def _request(client: httpx.AsyncClient, plan: str, number: int) -> str:
    while True:
        answer = await client.post(
            "/v1/tenants",
            json={
                "slug": f"bench-{number}",
                "name": f"Bench {number}",
                "plan": plan,
                "region": "eu-central",
                "contact_email": f"ops{number}@bench.example",
            },
        )
        if answer.status_code in {404, 409, 422, 429, 503} and "Retry-After" in answer.headers:
            await asyncio.sleep(float(answer.headers["Retry-After"]))
            continue
        if answer.is_error:
            raise BenchmarkError(f"a tenant was refused: {answer.text[:300]}")
        id_: str = answer.json()["id"]
        return id_


def _renamed(text: str, ids: Mapping[str, str]) -> str:
    for id_, name in ids.items():
        text = text.replace(id_, name)
    return text


def _event(session: Mapping[str, Any], tenant: str) -> str:
    return json.dumps(
        {
            "id": f"evt_{tenant[4:]}",
            "object": "event",
            "api_version": "2025-10-29.clover",
            "created": int(time.time()),
            "data": {"object": session},
            "livemode": False,
            "pending_webhooks": 1,
            "type": "checkout.session.completed",
        }
    )


def _tenant(message: Msg) -> str:
    return (message.headers or {}).get("pb-tenant", "")
