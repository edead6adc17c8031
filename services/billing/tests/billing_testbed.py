"""Billing with the services around it, for tests."""

import asyncio
import json
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paybill_contracts.envelope import Fact, IntakeEvent, Origin, headers_of, intake_headers, intake_subject
from paybill_contracts.event import encode
from paybill_contracts.personal import seal
from paybill_contracts.purchases import PurchaseTerms
from paybill_contracts.tenant import Source, TenantRequested
from paybill_runtime.clock import new_id
from paybill_runtime.security.identity import Identity
from paybill_runtime.telemetry import child
from paybill_runtime.testing import publish_fact, until
from paybill_stripe_fake.client import FakeControl
from sqlalchemy import text

API_KEY = "sk_test_0123456789"
SECRETS = ("whsec_first", "whsec_second")
EMAIL = "ada.lovelace@acme.example"


JOBS = "/v1/operations/jobs"


@dataclass
class Fake:
    """The Stripe fake, and the port to which it sends webhooks."""

    url: str
    receiver_port: int
    control: FakeControl
    stripe: Any
    key_file: Path
    secrets_file: Path


class Publisher:
    """Another service: publishes events, and the keys of their encrypted values."""

    def __init__(self, client, identities: Path):
        self._client = client
        self._jetstream = client.jetstream()
        self._identities = identities
        self._revisions: dict[str, int] = {}

    async def publish(self, event, id_: str | None = None) -> str:
        revision = self._revisions.get(event.aggregate_id, 0) + 1
        self._revisions[event.aggregate_id] = revision
        id_ = id_ or new_id()
        fact = Fact(event, id_, datetime.now(UTC), revision, Origin("test", "test", "operator:test", child(None)))
        await publish_fact(self._client, event, headers_of(fact))
        return id_

    async def submit(
        self, event, publisher: str = "metering", id_: str | None = None, payload: bytes | None = None
    ) -> str:
        """Publishes an event to the intake. payload: in place of the event's own."""
        id_ = id_ or new_id()
        headers = intake_headers(IntakeEvent(event, id_, publisher, datetime.now(UTC), child(None)))
        sent = encode(event) if payload is None else payload
        await self._jetstream.publish(intake_subject(publisher, event), sent, headers=headers)
        return id_

    async def request_tenant(
        self,
        tenant_id: str,
        plan: str = "starter",
        email: str = EMAIL,
        payment: str | None = None,
        customer: str | None = None,
        contact_digest: str | None = None,
        terms: PurchaseTerms | None = None,
    ) -> None:
        """Publishes a sign-up as the tenant service does, with the key encrypted for billing."""
        key = AESGCM.generate_key(256)
        box = Identity.load(self._identities, "tenant").encrypt_for(key, "billing")
        copies = json.dumps({"billing": b64encode(box).decode()}).encode()
        await self._jetstream.publish(f"$KV.keys.tenant.{tenant_id}", copies)
        await self.publish(
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
                contact_digest=contact_digest,
                contact_until=datetime.now(UTC) + timedelta(days=400) if contact_digest else None,
                terms=terms,
            )
        )


@dataclass
class BillingTestbed:
    """A running billing service with the services around it."""

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

    async def jobs(self, kind: str, state: str) -> list[Any]:
        """Returns the jobs of a kind in a state."""
        return await self.get(JOBS, kind=kind, state=state)

    async def retry(self, job: Any) -> None:
        """Makes a job due now."""
        await self.served.client.post(f"{JOBS}/{job['id']}/retry")

    async def given_up_and_retried(self, kind: str) -> tuple[Any, Any, Any]:
        """Awaits the end of a failing job, then ends the faults of the fake and retries it.

        Returns the fact of its incident, the failed job, and the fact of the incident's end.
        """

        async def failing():
            return [each for each in await self.jobs(kind, "pending") if each["error"]]

        async def given_up():  # again and again: an attempt that runs meanwhile writes its own number
            statement = "UPDATE chassis.job SET attempts = 7 WHERE kind = :kind AND state = 'pending'"
            async with self.served.running.database.engine.begin() as connection:
                await connection.execute(text(statement), {"kind": kind})
            return await self.jobs(kind, "failed")

        await until(failing)
        (failed,) = await until(given_up)
        (opened,) = await self.log.facts("billing.incident_opened")
        await asyncio.to_thread(self.fake.control.fail_calls, 0)
        await self.retry(failed)
        (closed,) = await self.log.facts("billing.incident_closed")
        return opened, failed, closed

    async def account(self, tenant_id: str) -> Any:
        answer = await self.served.client.get(f"/v1/tenants/{tenant_id}/account")
        return answer.json() if answer.status_code == 200 else None

    async def opened(self, tenant_id: str) -> Any:
        async def probe():
            account = await self.account(tenant_id)
            return account if account and account["status"] == "open" else None

        return await until(probe)

    async def subscription(self, tenant_id: str, access: str) -> Any:
        """Returns the tenant's subscription as soon as it has this access."""

        async def probe():
            account = await self.account(tenant_id)
            return next((s for s in (account or {}).get("subscriptions", []) if s["access"] == access), None)

        return await until(probe)

    async def subscribed(self, tenant_id: str, plan: str = "starter", seats: int = 1) -> Any:
        """Signs a tenant up and pays."""
        await self.tenants.request_tenant(tenant_id, plan, terms=PurchaseTerms(quantity=seats) if seats > 1 else None)
        account = await self.opened(tenant_id)
        await asyncio.to_thread(self.fake.control.pay_checkout, account["checkout_url"].rpartition("/")[2])
        return await self.subscription(tenant_id, "active")

    async def settled(self) -> None:
        """Returns when all webhooks are delivered and processed."""
        await asyncio.to_thread(self.fake.control.wait_delivered)

        async def probe():
            return await self.get("/v1/webhooks/waiting") == []

        await until(probe)

    async def emitted(self, *types: str) -> Counter[str]:
        """Returns how often each event was published."""
        facts = await self.log.facts(*(f"billing.{type_}" for type_ in types), at_least=len(types))
        return Counter(fact.event.TYPE[8:] for fact in facts)

    async def reconciled(self, *, repair: bool) -> Any:
        """Runs a reconciliation with Stripe."""
        answer = await self.served.client.post("/v1/providers/stripe/reconciliations", json={"repair": repair})
        assert answer.status_code == 202, answer.text

        async def over():
            run = await self.get(f"/v1/reconciliations/{answer.json()['id']}")
            return run if run["status"] == "finished" else None

        return await until(over)

    async def drifts(self, run: Any) -> list[dict[str, Any]]:
        return (await self.get("/v1/drifts", run=run["id"]))["drifts"]

    async def sql(self, statement: str) -> Any:
        database = self.served.running.database
        async with database.engine.connect() as connection:
            return (await connection.exec_driver_sql(statement)).all()
