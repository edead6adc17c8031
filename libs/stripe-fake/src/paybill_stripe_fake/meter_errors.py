"""Reports usage that could not be counted, in thin events that have no snapshot."""

from paybill_stripe_fake import deliveries, thin_events
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.store import Resource


def report(account: Account, meter: Resource | None, code: str, message: str, identifier: str) -> None:
    """Emits an error report for an event that was not billed; without a meter, that no meter was found."""
    sample = {"error_message": message, "request": {"identifier": identifier}}
    error = {"code": code, "error_count": 1, "sample_errors": [sample]}
    now = thin_events.iso(account.now())
    data = {
        "developer_message_summary": "There is 1 invalid event",
        "reason": {"error_count": 1, "error_types": [error]},
        "validation_end": now,
        "validation_start": now,
    }
    kind = "v1.billing.meter.error_report_triggered" if meter else "v1.billing.meter.no_meter_found"
    deliveries.enqueue(account, thin_events.new(account, kind, meter, data))
