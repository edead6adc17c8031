"""Stack of real services for a benchmark, with tenants that have signed up and are about to pay."""

import asyncio
import json
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import Event, encode
from paybill_contracts.signatures import SIGNATURE_HEADER, leaf_of
from paybill_embedded.nats import NatsServer
from paybill_embedded.ports import free_port
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.security.signing_identity import SigningIdentity
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
from paybill_bench.activations import (
    Webhook,
    WebhookClient,
    activate_all,
    activate_one_by_one,
    facts_from_now,
)
from paybill_bench.deadlines import StallDetector
from paybill_bench.facts import Message
from paybill_bench.load_generator import WebhookEndpoint
from paybill_bench.servers import BenchmarkError, BenchServers, child, publish

__all__ = ["Stack", "Webhook", "WebhookClient"]

_OPENED = "billing.account_opened"
_CALLERS = 12


class Stack:
    """The services, each a process; billing calls the Stripe fake, or the recorded provider inside `recorded`.

    blueprints: file of the first blueprint. services: those that run; the fake runs with billing. commands: those that
    replace the services' own; environment: additional variables. Both by the name of the service.
    """

    def __init__(
        self,
        servers: BenchServers,
        bus: NatsServer,
        *,
        blueprints: Path | None = None,
        services: Sequence[str] = SERVICES,
        commands: Mapping[str, Sequence[str]] | None = None,
        environment: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._services = tuple(services)
        self._commands = commands or {}
        self._variables = environment or {}
        self._servers = servers
        self._bus = bus
        self._recorded = False
        self._layout = Layout(servers.folder / "stack")
        self._provider_port = free_port()
        self._at = Addresses(
            BusAccess(bus.url, bus.data_dir / "credentials"),
            DatabaseAccess("127.0.0.1", servers.postgres.port, servers.postgres.data_dir / "credentials"),
            {name: free_port() for name in (*SERVICES, STRIPE_FAKE)},
            blueprints=blueprints,
        )
        self._processes: dict[str, Process] = {}
        self._identities: dict[str, SigningIdentity] = {}
        self._numbers = count(1)
        self._key = ""
        self._sessions: dict[str, str] = {}

    async def start(self) -> None:
        """Starts all processes and returns when they are ready."""
        prepare(self._layout)
        self._key = ensure_operator_key(self._layout.api_keys, datetime.now(UTC), replace=True) or ""
        for name in set(SERVICES) - set(self._services):
            self._identities[name] = SigningIdentity.load(self._layout.identities, name)
            await publish(self._bus, [self.signed(self._identities[name].announcement)], name)
        if "billing" in self._services:
            command = stripe_fake_command(self._layout, self._at)
            cut = command.index("--webhook-url")  # the benchmark sends the webhooks itself, while the clock runs
            await self._run(STRIPE_FAKE, command[:cut], inherited_environment())
        for name in self._services:
            await self._run(name, self._commands.get(name) or service_command(name), self._environment(name))
        for name in self._processes:
            await self._ready(name)

    def signed(self, event: Event, revision: int = 1) -> Message:
        """Returns the message of a new fact of a service that does not run here."""
        cause, trace = str(uuid.uuid4()), f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01"
        origin = Origin(cause, cause, f"service:{event.OWNER}", trace)
        headers = headers_of(Fact(event, str(uuid.uuid4()), datetime.now(UTC), revision, origin))
        subject, payload = subject_of(event), encode(event)
        [signature] = self._identities[event.OWNER].sign([leaf_of(subject, headers, payload)])
        return Message(subject, {**headers, SIGNATURE_HEADER: signature}, payload)

    async def stop(self) -> None:
        """Stops all processes, services first."""
        await asyncio.gather(*(self._processes[name].stop(10) for name in self._services if name in self._processes))
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

    @property
    def databases(self) -> DatabaseAccess:
        """Returns the PostgreSQL server of the stack."""
        return self._at.databases

    @property
    def provider_port(self) -> int:
        """Returns the port of the recorded provider, which runs inside `recorded`."""
        return self._provider_port

    def client(self, service: str) -> httpx.AsyncClient:
        """Returns a client of a service's API with the operator's key."""
        headers = {"Authorization": f"Bearer {self._key}"}
        return httpx.AsyncClient(base_url=self._at.url(service), headers=headers, trust_env=False, timeout=60)

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[httpx.AsyncClient]:
        """Returns a client of the Stripe fake's API."""
        key = self._layout.stripe_api_key.read_text(encoding="utf-8").strip()
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=self._at.url(STRIPE_FAKE), headers=headers, trust_env=False) as client:
            yield client

    def _environment(self, name: str, **more: str) -> dict[str, str]:
        return service_environment(name, self._layout, self._at) | dict(self._variables.get(name, {})) | more

    async def _run(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._processes[name] = Process(name, command, environment, self._layout.log(name))
        await self._processes[name].start()

    async def _ready(self, name: str) -> None:
        path = "/healthz" if name == STRIPE_FAKE else "/readyz"
        process, progress = self._processes[name], StallDetector()
        async with httpx.AsyncClient(base_url=self._at.url(name), trust_env=False) as client:
            while True:
                response: dict[str, Any] = {}
                with suppress(httpx.HTTPError, ValueError):
                    response = (await client.get(path)).json()
                if response.get("status") == "ok":
                    return
                if process.pid is None or progress.stalled((response, process.log.stat().st_size)):
                    raise BenchmarkError(f"{name} did not start: {process.error_line()}")
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
            return self.paid(plan, opened)
        key = self._layout.stripe_api_key.read_text(encoding="utf-8").strip()
        with FakeControl(self._at.url(STRIPE_FAKE), key) as control:
            webhooks = []
            for tenant, checkout in opened.items():
                session = await asyncio.to_thread(control.pay_checkout, checkout)
                self._sessions[plan] = json.dumps(session)
                webhooks.append(Webhook(tenant, _event(session, tenant)))
        return webhooks

    def paid(self, plan: str, tenants: Iterable[str]) -> list[Webhook]:
        """Returns the events of the recorded provider for the payments of these tenants."""
        session = json.loads(self._sessions[plan])
        webhooks = []
        for tenant in tenants:
            digits = tenant.removeprefix("ten_")
            ids = {
                "customer": f"cus_{digits}",
                "subscription": f"sub_{plan}_{digits}",
                "client_reference_id": tenant,
            }
            webhooks.append(Webhook(tenant, _event(session | ids, tenant)))
        return webhooks

    async def _opened(self, plan: str, amount: int) -> dict[str, str]:
        """Signs up `amount` tenants; returns their ids and checkouts."""
        left = iter([next(self._numbers) for _ in range(amount)])
        tenants: set[str] = set()
        found: dict[str, str] = {}
        progress = StallDetector()
        async with (
            self.consumer_of(_OPENED) as consumer,
            self.client("tenant") as client,
        ):

            async def call() -> None:
                for number in left:
                    tenants.add(await _request(client, plan, number))

            await asyncio.gather(*(call() for _ in range(_CALLERS)))
            while tenants - found.keys():
                for message in await consumer.fetch(1.0):
                    fact = json.loads(message.data)
                    found[fact["tenant_id"]] = fact["checkout"]
                if progress.stalled(len(found)):
                    raise BenchmarkError(f"{len(tenants - found.keys())} of {amount} accounts were not opened")
        return {tenant: found[tenant] for tenant in tenants}

    def consumer_of(self, *types: str) -> AbstractAsyncContextManager[OrderedConsumer]:
        """Returns a consumer of facts of these types, starting now."""
        return facts_from_now(self._bus, *types)

    async def start_all(self, webhooks: Sequence[Webhook]) -> float:
        """Sends every webhook; returns the seconds from the first byte until the last tenant is active in the log."""
        return await activate_all(self._bus, self.webhook_endpoint, webhooks)

    async def start_one_by_one(self, webhooks: Sequence[Webhook]) -> tuple[list[float], list[dict[str, float]]]:
        """Returns milliseconds of each journey alone, and the times at which its facts were decided."""
        return await activate_one_by_one(self._bus, self.webhook_endpoint, webhooks)


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
