"""Events for the kill test: of the servers of the tests, or of a stack that runs with `paybill up`."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from paybill_client import Publisher
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_contracts.tenant import HoldOrigin, TenantCancelled
from paybill_contracts.usage import Usage
from paybill_embedded.nats import NatsServer
from paybill_runtime.clock import new_id, now
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.telemetry import child
from paybill_stripe_fake.client import FakeControl

AT_ONCE = 64
WITHIN_S = 60


@dataclass
class TestServers:
    """A NATS of the tests; the test publishes in the place of the tenant service."""

    __test__ = False

    nats: NatsServer
    create: Callable[..., Awaitable[Path]]
    type: str = TenantCancelled.TYPE

    async def create_subscriber(self) -> Path:
        return await self.create(contexts=("tenant",))

    async def publish(self, count: int) -> None:
        client = await connect(self.nats.url, "tenant", self.nats.password("tenant"))
        for number in range(count):
            event = TenantCancelled(tenant_id="ten_" + "a" * 32, origin=HoldOrigin.OPERATOR, reason=str(number))
            id_ = new_id()
            fact = Fact(event, id_, now(), number + 1, Origin(id_, id_, "service:tenant", child(None)))
            await client.jetstream().publish(subject_of(event), encode(event), headers=headers_of(fact))
        await client.close()

    async def log(self) -> list[int]:
        """Returns the sequences of all events of the type."""
        return await _sequences(self.nats.url, self.nats.password("operator"), self.type)


@dataclass
class RunningStack:
    """A stack of `paybill up`, with a tenant whose usage billing records. PAYBILL_API_KEY is the operator's key."""

    data_dir: Path
    folder: Path
    type: str = "billing.usage_recorded"
    tenant_id: str = ""

    async def create_subscriber(self) -> Path:
        """Creates a tenant that has paid, too."""
        slug = f"killed-{token_hex(4)}"
        made = _paybill(self.data_dir, "tenant", "create", slug, *_TENANT)
        self.tenant_id = made["id"]
        fake, _, checkout = made["checkout_url"].partition("/fake/checkout/")
        with FakeControl(fake, "no key is needed to pay") as control:
            control.pay_checkout(checkout)
        deadline = time.monotonic() + WITHIN_S
        while _paybill(self.data_dir, "tenant", "show", slug)["status"] != "active":
            assert time.monotonic() < deadline, f"{slug} is not active"
            await asyncio.sleep(0.1)
        name = f"killed-{token_hex(4)}"
        path = self.folder / f"{name}.json"
        rights = ("--contexts", "billing", "--types", self.type, "--batches", "--out", str(path))
        _paybill(self.data_dir, "subscriber", "create", name, *rights)
        return path

    async def publish(self, count: int) -> None:
        limit = asyncio.Semaphore(AT_ONCE)

        async def publish_one(publisher: Publisher) -> None:
            async with limit:
                usage = Usage(tenant_id=self.tenant_id, meter="calls", quantity=1, occurred_at=datetime.now(UTC))
                await publisher.publish(usage, timeout_s=WITHIN_S)

        async with Publisher(self.data_dir / "clients/metering.json") as publisher:
            await asyncio.gather(*(publish_one(publisher) for _ in range(count)))

    async def log(self) -> list[int]:
        """Returns the sequences of all events of the type."""
        url = json.loads((self.data_dir / "stack.json").read_text())["nats"]["url"]
        return await _sequences(url, (self.data_dir / "credentials/nats-operator").read_text().strip(), self.type)


_TENANT = ("--plan", "starter", "--region", "eu-central", "--email", "ops@killed.example")


def _paybill(data_dir: Path, *arguments: str) -> Any:
    """Returns the data that a command prints."""
    command = [sys.executable, "-m", "paybill_cli", *arguments, "--json"]
    environment = os.environ | {"PAYBILL_DATA_DIR": str(data_dir)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["data"]


async def _sequences(url: str, password: str, type_: str) -> list[int]:
    client = await connect(url, "operator", password)
    consumer = OrderedConsumer(client, EVENTS, [f"paybill.events.*.{type_}.*"], 1)
    found: list[int] = []
    remaining = await consumer.pending()
    while len(found) < remaining:
        found += [stream_sequence(message) for message in await consumer.fetch(WITHIN_S)]
    await consumer.close()
    await client.close()
    return found
