"""Chapter 6: an internal service reports usage; what is wrong is set aside with its reason and holds up nothing."""

from paybill_contracts.billing import BillingIntakeQuarantined, UsageRecorded
from paybill_contracts.envelope import IntakeEvent, intake_headers, intake_subject
from paybill_contracts.event import encode
from paybill_contracts.usage import Usage
from paybill_runtime import clock
from paybill_runtime.messaging.publisher import Publisher
from paybill_runtime.messaging.streams import connect
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
    first = Usage(tenant_id=tenant.id, meter=_METER, quantity=_FIRST, occurred_at=clock.now())
    async with Publisher(bus.url, PUBLISHER, bus.password(PUBLISHER)) as publisher:
        await publisher.publish(first)
        await _publish_unchecked(scene, first.model_copy(update={"quantity": _INVALID}))
        await publisher.publish(first.model_copy(update={"quantity": _LAST}))
    await expect(UsageRecorded, lambda used: used.quantity == _FIRST, tenant=tenant.id, after=after)
    refused = await expect(BillingIntakeQuarantined, after=after)
    last = await expect(UsageRecorded, lambda used: used.quantity == _LAST, tenant=tenant.id, after=after)
    scene.check("the bad report is kept with its reason", refused.publisher == PUBLISHER, refused.reason)
    scene.check("the next one counts", last.total >= _FIRST + _LAST, f"{last.total} {last.meter} in total")


async def _publish_unchecked(scene: Scene, usage: Usage) -> None:
    """As another program may: our own library refuses to send what is not valid."""
    bus = scene.stack.at.bus
    offer = IntakeEvent(usage, clock.new_id(), PUBLISHER, clock.now(), child(None))
    client = await connect(bus.url, PUBLISHER, bus.password(PUBLISHER), wait_s=PATIENCE_S)
    try:
        subject = intake_subject(PUBLISHER, usage)
        await client.jetstream().publish(subject, encode(usage), headers=intake_headers(offer))
    finally:
        await client.close()
