"""Billing and all that surrounds it, as its tests see it."""

import asyncio
import json
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paybill_contracts.envelope import Fact, Origin, headers_of, intake_subject, subject_of
from paybill_contracts.event import encode
from paybill_contracts.personal import seal
from paybill_contracts.tenant import Source, TenantRequested
from paybill_runtime.clock import new_id
from paybill_runtime.security.identity import Identity
from paybill_runtime.telemetry import child
from paybill_stripe_fake.client import FakeControl

API_KEY = "sk_test_0123456789"
SECRETS = ("whsec_first", "whsec_second")
EMAIL = "ada.lovelace@acme.example"


async def eventually(look: Callable[[], Awaitable[Any]], timeout_s: float = 15) -> Any:
    """What `look` returns, as soon as that is true."""
    async with asyncio.timeout(timeout_s):
        while not (found := await look()):  # noqa: ASYNC110  # what is waited for happens in another process
            await asyncio.sleep(0.05)
    return found


@dataclass
class Fake:
    """The stand-in for Stripe, and where it sends its webhooks."""

    url: str
    receiver_port: int
    control: FakeControl
    stripe: Any
    key_file: Path
    secrets_file: Path


class Publisher:
    """Another service, as far as billing can tell: it publishes facts, and the keys of what is sealed in them."""

    def __init__(self, client, identities: Path):
        self._jetstream = client.jetstream()
        self._identities = identities
        self._revisions: dict[str, int] = {}

    async def say(self, event, id_: str | None = None) -> str:
        revision = self._revisions.get(event.aggregate_id, 0) + 1
        self._revisions[event.aggregate_id] = revision
        id_ = id_ or new_id()
        fact = Fact(event, id_, datetime.now(UTC), revision, Origin("test", "test", "operator:test", child(None)))
        await self._jetstream.publish(subject_of(event), encode(event), headers=headers_of(fact))
        return id_

    async def offer(self, event, publisher: str = "metering", id_: str | None = None) -> str:
        id_ = id_ or new_id()
        fact = Fact(event, id_, datetime.now(UTC), 1, Origin("test", "test", "service:metering", child(None)))
        await self._jetstream.publish(intake_subject(publisher, event), encode(event), headers=headers_of(fact))
        return id_

    async def request_tenant(
        self,
        tenant_id: str,
        plan: str = "starter",
        email: str = EMAIL,
        payment: str | None = None,
        customer: str | None = None,
    ) -> None:
        """What the tenant service says when somebody signs up, with the key that billing may open."""
        key = AESGCM.generate_key(256)
        box = Identity.load(self._identities, "tenant").encrypt_for(key, "billing")
        copies = json.dumps({"billing": b64encode(box).decode()}).encode()
        await self._jetstream.publish(f"$KV.keys.tenant.{tenant_id}", copies)
        await self.say(
            TenantRequested(
                tenant_id=tenant_id,
                slug=f"t{tenant_id[4:12]}",
                name="Acme Inc",
                plan=plan,
                region="local",
                contact_email=seal(email, key=key, name=f"tenant/{tenant_id}", nonce=bytes(12)),
                source=Source.API,
                payment=payment,
                customer=customer,
            )
        )


@dataclass
class World:
    """Billing, running and reachable, with all that surrounds it."""

    served: Any
    tenants: Publisher
    metering: Publisher
    fake: Fake
    log: Any
    url: str

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.served.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def account(self, tenant_id: str) -> Any:
        answer = await self.served.client.get(f"/v1/tenants/{tenant_id}/account")
        return answer.json() if answer.status_code == 200 else None

    async def opened(self, tenant_id: str) -> Any:
        async def look():
            account = await self.account(tenant_id)
            return account if account and account["status"] == "open" else None

        return await eventually(look)

    async def standing(self, tenant_id: str, access: str) -> Any:
        """The tenant's subscription, once it gives this access."""

        async def look():
            account = await self.account(tenant_id)
            return next((s for s in (account or {}).get("subscriptions", []) if s["access"] == access), None)

        return await eventually(look)

    async def subscribed(self, tenant_id: str, plan: str = "starter") -> Any:
        """A tenant that signed up and paid."""
        await self.tenants.request_tenant(tenant_id, plan)
        account = await self.opened(tenant_id)
        await asyncio.to_thread(self.fake.control.pay_checkout, account["checkout_url"].rpartition("/")[2])
        return await self.standing(tenant_id, "active")

    async def quiet(self) -> None:
        """All webhooks are delivered and understood."""
        await asyncio.to_thread(self.fake.control.wait_delivered)

        async def look():
            return await self.get("/v1/webhooks/waiting") == []

        await eventually(look)

    async def told(self, *types: str) -> Counter[str]:
        """How often each fact was said."""
        facts = await self.log.facts(*(f"billing.{type_}" for type_ in types), at_least=len(types))
        return Counter(fact.event.TYPE[8:] for fact in facts)

    async def reconciled(self, *, repair: bool) -> Any:
        """Everything is compared with Stripe."""
        answer = await self.served.client.post("/v1/providers/stripe/reconciliations", json={"repair": repair})
        assert answer.status_code == 202, answer.text

        async def over():
            run = await self.get(f"/v1/reconciliations/{answer.json()['id']}")
            return run if run["status"] == "finished" else None

        return await eventually(over)

    async def drifts(self, run: Any) -> list[dict[str, Any]]:
        return (await self.get("/v1/drifts", run=run["id"]))["drifts"]

    async def sql(self, statement: str) -> Any:
        database = self.served.running.database
        async with database.engine.connect() as connection:
            return (await connection.exec_driver_sql(statement)).all()
