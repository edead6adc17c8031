"""Chapter 7: an internal service reports usage; an invalid report is quarantined with its reason."""

from paybill_client import Credentials, Publisher
from paybill_contracts.billing import BillingIntakeQuarantined, UsageRecorded
from paybill_contracts.envelope import IntakeEvent, intake_headers, intake_subject
from paybill_contracts.event import encode
from paybill_contracts.usage import Usage
from paybill_runtime import clock
from paybill_runtime.messaging.streams import connect
from paybill_runtime.telemetry import child

from paybill_cli.demo.recorder import TIMEOUT_S
from paybill_cli.demo.session import DemoSession, Tenant

PUBLISHER = "metering"
_METER = "calls"
_FIRST, _INVALID, _LAST = 120, -1, 30


async def report_usage(session: DemoSession, tenant: Tenant) -> None:
    """Publishes a valid report, an invalid one, and another valid one."""
    session.printer.chapter(7, f"An internal service reports {tenant.slug}'s usage; an invalid report is quarantined")
    expect, after = session.recorder.expect, session.recorder.last_sequence
    bus = session.stack.addresses.bus
    first = Usage(tenant_id=tenant.id, meter=_METER, quantity=_FIRST, occurred_at=clock.now())
    async with Publisher(Credentials.of(PUBLISHER, bus.url, bus.password(PUBLISHER))) as publisher:
        await publisher.publish(first)
        await _publish_unchecked(session, first.model_copy(update={"quantity": _INVALID}))
        await publisher.publish(first.model_copy(update={"quantity": _LAST}))
    await expect(UsageRecorded, lambda used: used.quantity == _FIRST, tenant=tenant.id, after=after)
    refused = await expect(BillingIntakeQuarantined, after=after)
    last = await expect(UsageRecorded, lambda used: used.quantity == _LAST, tenant=tenant.id, after=after)
    session.check("the invalid report is quarantined with its reason", refused.publisher == PUBLISHER, refused.reason)
    session.check("the next report is counted", last.total >= _FIRST + _LAST, f"{last.total} {last.meter} in total")


async def _publish_unchecked(session: DemoSession, usage: Usage) -> None:
    """Publishes like another client library: our own refuses to send an invalid report."""
    bus = session.stack.addresses.bus
    event = IntakeEvent(usage, clock.new_id(), PUBLISHER, clock.now(), child(None))
    client = await connect(bus.url, PUBLISHER, bus.password(PUBLISHER), wait_s=TIMEOUT_S)
    try:
        subject = intake_subject(PUBLISHER, usage)
        await client.jetstream().publish(subject, encode(usage), headers=intake_headers(event))
    finally:
        await client.close()
