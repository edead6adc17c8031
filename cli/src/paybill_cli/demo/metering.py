"""Chapter 6: an internal service reports usage; what is wrong is set aside with its reason and holds up nothing."""

from datetime import UTC, datetime

from nats.aio.client import Client
from paybill_contracts.billing import BillingIntakeQuarantined, UsageRecorded
from paybill_contracts.event import Payload, canonical
from paybill_contracts.usage import Usage
from paybill_runtime import clock
from paybill_runtime.streams import connect
from paybill_runtime.telemetry import child

from paybill_cli.demo.journal import PATIENCE_S
from paybill_cli.demo.scene import Scene, Tenant

PUBLISHER = "metering"
_METER = "calls"
_FIRST, _INVALID, _LAST = 120, -1, 30


async def report_usage(scene: Scene, tenant: Tenant) -> None:
    """A good report, a bad one, and another good one."""
    scene.voice.chapter(6, f"An internal service reports {tenant.slug}'s usage; a bad report is set aside")
    expect, after = scene.journal.expect, scene.journal.upto
    bus = scene.stack.at.bus
    client = await connect(bus.url, PUBLISHER, bus.password(PUBLISHER), wait_s=PATIENCE_S)
    now = datetime.now(UTC)
    try:
        for quantity in (_FIRST, _INVALID, _LAST):
            payload = {
                "tenant_id": tenant.id,
                "meter": _METER,
                "quantity": quantity,
                "occurred_at": now.isoformat().replace("+00:00", "Z"),
            }
            await _publish(client, payload)
    finally:
        await client.close()
    await expect(UsageRecorded, lambda used: used.quantity == _FIRST, tenant=tenant.id, after=after)
    refused = await expect(BillingIntakeQuarantined, after=after)
    last = await expect(UsageRecorded, lambda used: used.quantity == _LAST, tenant=tenant.id, after=after)
    scene.check("the bad report is kept with its reason", refused.publisher == PUBLISHER, refused.reason)
    scene.check("the next one counts", last.total >= _FIRST + _LAST, f"{last.total} {last.meter} in total")


async def _publish(client: Client, payload: Payload) -> None:
    """As another program would, without our library's checks: one of these is not valid."""
    headers = {
        "Nats-Msg-Id": (id_ := clock.new_id()),
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": id_,
        "ce-type": Usage.TYPE,
        "ce-source": f"demo/{PUBLISHER}",
        "ce-time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "traceparent": child(None),
    }
    subject = f"paybill.intake.{PUBLISHER}.{Usage.TYPE}.v{Usage.VERSION}"
    await client.jetstream().publish(subject, canonical(payload), headers=headers)
