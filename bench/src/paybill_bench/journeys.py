"""Tenants that have signed up and are about to pay, in a stack of real services; and the time until they are active."""

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
    inherited_environment,
    service_command,
    service_environment,
    stripe_fake_command,
)
from paybill_stack.layout import SERVICES, STRIPE_FAKE, Layout
from paybill_stack.operator_key import ensure_operator_key
from paybill_stack.prepare import prepare
from paybill_stack.process import Process
from paybill_stripe_fake.client import FakeControl

from paybill_bench import provider
from paybill_bench.load_generator import WebhookEndpoint, signed
from paybill_bench.servers import BenchmarkError, BenchServers, child

CONNECTIONS = 32
"""Webhooks in flight at the same time."""
ACTIVATED = "tenant.tenant_activated"
_OPENED = "billing.account_opened"
_CALLERS = 12
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Webhook:
    """The provider's unsigned event for a tenant that has paid."""

    tenant: str
    body: str


class Stack:
    """The services, each a process; billing calls the Stripe fake, or the recorded provider inside `recorded`.

    environment: additional variables of billing.
    """

    def __init__(self, servers: BenchServers, bus: NatsServer, **environment: str) -> None:
        self._environment_of_billing = environment
        self._servers = servers
        self._bus = bus
        self._recorded = False
        self._layout = Layout(servers.folder / "stack")
        self._provider_port = free_port()
        self._at = Addresses(
            BusAccess(bus.url, bus.data_dir / "credentials"),
            DatabaseAccess("127.0.0.1", servers.postgres.port, servers.postgres.data_dir / "credentials"),
            {name: free_port() for name in (*SERVICES, STRIPE_FAKE)},
        )
        self._processes: dict[str, Process] = {}
        self._numbers = count(1)
        self._key = ""
        self._sessions: dict[str, str] = {}

    async def start(self) -> None:
        """Starts all processes and returns when they are ready."""
        prepare(self._layout)
        self._key = ensure_operator_key(self._layout.api_keys, datetime.now(UTC), replace=True) or ""
        command = stripe_fake_command(self._layout, self._at)
        cut = command.index("--webhook-url")  # the benchmark sends the webhooks itself, while the clock runs
        await self._run(STRIPE_FAKE, command[:cut], inherited_environment())
        for name in SERVICES:
            await self._run(name, service_command(name), self._environment(name))
        for name in (STRIPE_FAKE, *SERVICES):
            await self._ready(name)

    async def stop(self) -> None:
        """Stops all processes, services first."""
        await asyncio.gather(*(self._processes[name].stop(10) for name in SERVICES if name in self._processes))
        for process in self._processes.values():
            await process.stop(5)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Stops all processes with SIGSTOP in the block, since even their polling would slow a peer."""
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
        """Returns the process ids of the services and the Stripe fake."""
        return {name: process.pid for name, process in self._processes.items()}

    @property
    def webhook_endpoint(self) -> WebhookEndpoint:
        """Returns billing's webhook endpoint."""
        return WebhookEndpoint(self._at.ports["billing"], self._layout.stripe_webhook_secrets)

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[httpx.AsyncClient]:
        """Returns a client of the Stripe fake's API."""
        key = self._layout.stripe_api_key.read_text(encoding="utf-8").strip()
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=self._at.url(STRIPE_FAKE), headers=headers, trust_env=False) as client:
            yield client

    def _environment(self, name: str, **more: str) -> dict[str, str]:
        billing_variables = self._environment_of_billing if name == "billing" else {}
        return service_environment(name, self._layout, self._at) | billing_variables | more

    async def _run(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._processes[name] = Process(name, command, environment, self._layout.log(name))
        await self._processes[name].start()

    async def _ready(self, name: str) -> None:
        path = "/healthz" if name == STRIPE_FAKE else "/readyz"
        begin = time.monotonic()
        async with httpx.AsyncClient(base_url=self._at.url(name), trust_env=False) as client:
            while True:
                try:
                    response = (await client.get(path)).json()
                    if response.get("status") == "ok":
                        return
                except (httpx.HTTPError, ValueError):
                    pass
                if self._processes[name].pid is None or time.monotonic() - begin > _TIMEOUT_S:
                    raise BenchmarkError(f"{name} did not start: {self._processes[name].error_line()}")
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def recorded(self, plans: Sequence[str]) -> AsyncIterator[None]:
        """Billing calls the recorded provider in the block. One tenant of each plan must have paid before."""
        path = self._servers.folder / "recorded.json"
        path.write_text(json.dumps(await self._record(plans)), encoding="utf-8")
        log = self._servers.folder / "child.log"
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
        """Returns the Stripe fake's responses about a tenant of each plan, with placeholders for its ids."""
        recorded: dict[str, Any] = {"prices": {}, "subscriptions": {}}
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
                recorded["prices"][price["lookup_key"]] = json.dumps(price)
                recorded["subscriptions"][plan] = _renamed(json.dumps(found), ids)
                recorded["customer"] = _renamed((await client.get(f"/v1/customers/{session['customer']}")).text, ids)
                recorded["session"] = _renamed(
                    json.dumps(session | {"subscription": None, "url": "http://127.0.0.1/"}), ids
                )
        return recorded

    async def sign_up(self, plan: str, amount: int) -> list[Webhook]:
        """Signs tenants up until their accounts are open; returns the provider's events for their payments."""
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
        of_tenant = {
            "customer": f"cus_{digits}",
            "subscription": f"sub_{plan}_{digits}",
            "client_reference_id": tenant,
        }
        return _event(session | of_tenant, tenant)

    async def _opened(self, plan: str, amount: int) -> dict[str, str]:
        """Signs up `amount` tenants; returns their ids and checkouts."""
        left = iter([next(self._numbers) for _ in range(amount)])
        tenants: set[str] = set()
        found: dict[str, str] = {}
        async with (
            self.consumer_of(_OPENED) as consumer,
            httpx.AsyncClient(
                base_url=self._at.url("tenant"),
                headers={"Authorization": f"Bearer {self._key}"},
                trust_env=False,
                timeout=30,
            ) as client,
        ):

            async def call() -> None:
                for number in left:
                    tenants.add(await _request(client, plan, number))

            await asyncio.gather(*(call() for _ in range(_CALLERS)))
            async with asyncio.timeout(_TIMEOUT_S):
                while tenants - found.keys():
                    for message in await consumer.fetch(1.0):
                        fact = json.loads(message.data)
                        found[fact["tenant_id"]] = fact["checkout"]
        return {tenant: found[tenant] for tenant in tenants}

    @asynccontextmanager
    async def consumer_of(self, *types: str) -> AsyncIterator[OrderedConsumer]:
        """Returns a consumer of facts of these types, starting now."""
        client = await connect(self._bus.url, "operator", self._bus.password("operator"))
        last = (await client.jetstream().stream_info(EVENTS)).state.last_seq
        consumer = OrderedConsumer(client, EVENTS, [f"paybill.events.*.{type_}.*" for type_ in types], last + 1)
        await consumer.pending()
        try:
            yield consumer
        finally:
            await consumer.close()
            await client.close()

    async def start_all(self, webhooks: Sequence[Webhook]) -> float:
        """Sends every webhook; returns the seconds from the first byte until the last tenant is active in the log."""
        secret = self._layout.stripe_webhook_secrets.read_text(encoding="utf-8").strip()
        requests = iter([signed(webhook.body, secret) for webhook in webhooks])
        clock = asyncio.get_running_loop().time
        left = {webhook.tenant for webhook in webhooks}
        async with (
            self.consumer_of(ACTIVATED) as consumer,
            WebhookClient(self._at.ports["billing"], CONNECTIONS) as sender,
        ):
            begin = clock()
            sending = asyncio.create_task(sender.send(requests))
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    while left:
                        left.difference_update(_tenant(message) for message in await consumer.fetch(1.0))
            except TimeoutError:
                raise BenchmarkError(f"{len(left)} of {len(webhooks)} tenants did not become active") from None
            elapsed = clock() - begin
            await sending
        return elapsed

    async def start_one_by_one(self, webhooks: Sequence[Webhook]) -> tuple[list[float], list[dict[str, float]]]:
        """Returns milliseconds of each journey alone, and the times at which its facts were decided."""
        secret = self._layout.stripe_webhook_secrets.read_text(encoding="utf-8").strip()
        elapsed, timelines = [], []
        async with self.consumer_of("*.*") as consumer, WebhookClient(self._at.ports["billing"], 1) as sender:
            for webhook in webhooks:
                timeline: dict[str, float] = {}
                begin = time.time()
                sending = asyncio.create_task(sender.send(iter([signed(webhook.body, secret)])))
                async with asyncio.timeout(_TIMEOUT_S):
                    while ACTIVATED not in timeline:
                        for message in await consumer.fetch(1.0):
                            if _tenant(message) == webhook.tenant:
                                at = datetime.fromisoformat((message.headers or {})["ce-time"]).timestamp()
                                timeline[message.subject.split(".", 3)[3].rpartition(".")[0]] = (at - begin) * 1000
                elapsed.append((time.time() - begin) * 1000)
                timelines.append(timeline)
                await sending
                await asyncio.sleep(0.1)
        return elapsed, timelines


class WebhookClient:
    """Client with persistent connections and little CPU cost."""

    def __init__(self, port: int, amount: int) -> None:
        self._port = port
        self._amount = amount
        self._open: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        for _ in range(self._amount):
            self._open.append(await asyncio.open_connection("127.0.0.1", self._port))
        return self

    async def __aexit__(self, *_: object) -> None:
        for __, outgoing in self._open:
            outgoing.close()

    async def send(self, requests: Iterator[bytes]) -> None:
        """Sends all requests; each connection sends one after the other."""

        async def work(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
            for request in requests:
                outgoing.write(request)
                head = await incoming.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                response = await incoming.readexactly(length)
                if not head.startswith(b"HTTP/1.1 200"):
                    raise BenchmarkError(f"a webhook was refused: {response.decode(errors='replace')[:300]}")

        await asyncio.gather(*(work(incoming, outgoing) for incoming, outgoing in self._open))


async def _request(client: httpx.AsyncClient, plan: str, number: int) -> str:
    while True:
        response = await client.post(
            "/v1/tenants",
            json={
                "slug": f"bench-{number}",
                "name": f"Bench {number}",
                "plan": plan,
                "region": "eu-central",
                "contact_email": f"ops{number}@bench.example",
            },
        )
        if response.status_code in {404, 409, 422, 429, 503} and "Retry-After" in response.headers:
            await asyncio.sleep(float(response.headers["Retry-After"]))
            continue
        if response.is_error:
            raise BenchmarkError(f"a tenant was refused: {response.text[:300]}")
        id_: str = response.json()["id"]
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
