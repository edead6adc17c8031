"""Test environment of licences: billing with one subscribed tenant, and no requests to a provider."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
from billing_samples import NOW
from change_samples import having
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.subscriptions.tables import SUBSCRIPTIONS
from paybill_contracts.billing import AccessState, EntitlementsSet
from paybill_contracts.catalogue import LimitFeature, PlanRef
from paybill_contracts.envelope import Origin
from paybill_contracts.event import Event
from paybill_contracts.placement import Preset
from paybill_licence import UnknownLicenceKeyError, read_keys, verify_revocations
from paybill_runtime.testing import until

TENANT = "ten_" + "a" * 32
SUBSCRIPTION = "sub_" + "c" * 32
TEST = Origin("test", "test", "operator:test", "")


@dataclass
class Vendor:
    """The service, its log, and a client without an API key."""

    served: Any
    log: Any
    anonymous: httpx.AsyncClient
    start: Any

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.served.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def record(self, *events: Event) -> None:
        """Records the facts that billing emits after a sync of subscriptions."""
        facts = [
            (ENTITLEMENTS, event.tenant_id, event)
            if isinstance(event, EntitlementsSet)
            else (SUBSCRIPTIONS, event.subscription_id, event)
            for event in events
        ]

        def decide(unit, _):
            for stored, id_, event in facts:
                unit.record(stored, id_, [event])

        keys = {stored.key(id_) for stored, id_, _ in facts}
        await self.served.running.context.decide(TEST, decide, writes=keys)


def bought(kind, quantity=1, access=AccessState.ACTIVE, **more):
    subscription = having(
        subscription_id=SUBSCRIPTION,
        tenant_id=TENANT,
        access=access,
        plan=PlanRef(plan="team", version=1, catalogue_hash="a" * 64),
        quantity=quantity,
        period_start=NOW,
        period_end=NOW,
    )
    return kind(tenant_id=TENANT, subscription_id=SUBSCRIPTION, subscription=subscription, **more)


def of_tenant(number, event):
    """Returns the event for another tenant and its subscription."""
    ids = {"tenant_id": f"ten_{number:032x}", "subscription_id": f"sub_{number:032x}"}
    if isinstance(event, EntitlementsSet):
        return event.model_copy(update=ids)
    subscription = event.subscription.model_copy(update={**ids, "provider_subscription": f"sub_P{number + 2}"})
    return event.model_copy(update={**ids, "subscription": subscription})


def entitled(limit=10, *, allows=True):
    return EntitlementsSet(
        tenant_id=TENANT,
        subscription_id=SUBSCRIPTION,
        plan=PlanRef(plan="team", version=1, catalogue_hash="a" * 64),
        tier="team",
        placement=Preset.BRIDGE,
        features=(LimitFeature(kind="limit", key="projects", limit=limit),),
        allows_access=allows,
        entitlements_hash=f"{limit:063x}{allows:x}",
    )


async def post(vendor, path, body=None, *, status=200, key=None, **query):
    headers = {"Idempotency-Key": key} if key else {}
    answer = await vendor.served.client.post(path, json=body, params=query, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


async def issue(vendor, tenant=TENANT, status=202, **body):
    return await post(vendor, f"/v1/tenants/{tenant}/licences", body, status=status)


async def in_force(vendor, licence_id, revision=1):
    """Returns the licence, as soon as this revision of it is signed."""

    async def signed():
        found = await vendor.get(f"/v1/licences/{licence_id}")
        shown = found["licence"]
        return found if shown["revision"] >= revision and shown["pending"] is None and found["token"] else None

    return await until(signed)


async def public_keys(vendor):
    async def fetched():
        answer = await vendor.anonymous.get("/.well-known/license-keys.json")
        return answer if answer.status_code == 200 else None

    return read_keys((await until(fetched)).content)


async def revocations(vendor, *, number=1):
    """Returns the public revocation list, as soon as it has this number."""

    async def fetched():
        answer = await vendor.anonymous.get("/.well-known/license-revocations")
        if answer.status_code != 200:
            return None
        try:
            found = verify_revocations(answer.content, await public_keys(vendor), datetime.now(UTC))
        except UnknownLicenceKeyError:  # the key was replaced between the two requests
            return None
        return found if found.number >= number else None

    return await until(fetched)
