"""The alert that an event could not be generated: it names the object, and the event itself is lost permanently.

Source: https://docs.stripe.com/webhooks/handle-irrecoverable-events.
"""

from paybill_stripe_fake import deliveries, thin_events
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import ResourceMissingError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.store import Resource


def report_generation_failure(account: Account, params: Params) -> Resource:
    """Emits the alert that an event of `event_type` about `object` could not be generated."""
    kind, identifier = params.required("event_type", longest=200), params.required("object", longest=200)
    related = thin_events.find(account, identifier)
    if related is None:
        raise ResourceMissingError("object", identifier, param="object")
    data = {
        "alert_id": new_id("alert"),
        "grouping_key": new_id("group"),
        "impact": {"event_type": kind, "livemode": False, "related_object": thin_events.related_to(related)},
        "resolved_at": thin_events.iso(account.now()),
        "summary": f"An event of type {kind} could not be generated.",
    }
    alert = thin_events.new(account, "v2.core.health.event_generation_failure.resolved", None, data)
    deliveries.enqueue(account, alert)
    return alert
