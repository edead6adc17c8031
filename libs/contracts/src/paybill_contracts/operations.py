"""Events that every service publishes about its operation. Each service declares its own subclasses."""

from typing import TypeVar

from paybill_contracts.event import Event, UnknownEventError, known_events
from paybill_contracts.values import Count, EventId, TenantId, Text

E = TypeVar("E", bound=Event)


class RequestRefused(Event):
    """A rule of the domain refused an authenticated caller. `code` is the problem's stable code.

    tenant_id: the tenant that the request was about, where the service names it; caller: who sent it.
    left_out: further requests of the caller with this code, in the minute before, that are not recorded.
    """

    refusal_id: EventId
    verb: Text
    code: Text
    target: Text
    tenant_id: TenantId | None = None
    caller: Text | None = None
    left_out: Count = 0


class MessageDeadLettered(Event):
    """Handling an event failed `attempts` times; its tenant's queue waits for an operator.

    `message_key`: id of the event, which names the dead letter at the publishing service.
    """

    message_key: EventId
    message_type: Text
    message_tenant: Text | None
    attempts: Count
    reason: Text


class MessageRedriven(Event):
    """An operator retried the message."""

    message_key: EventId
    operator: Text


class MessageSkipped(Event):
    """An operator skipped the message, so that its queue continues."""

    message_key: EventId
    operator: Text
    reason: Text


class JobRetried(Event):
    """An operator made a background job due, with all attempts again. `job_id` names it at the publishing service."""

    job_id: EventId
    kind: Text
    operator: Text


class JobCancelled(Event):
    """An operator ended a background job without another attempt."""

    job_id: EventId
    kind: Text
    operator: Text
    reason: Text


class DataKeysShared(Event):
    """An operator let a subscriber open the personal data of the publishing service.

    `public_key`: X25519, 32 bytes in base64, for which the data keys are encrypted.
    """

    recipient: Text
    public_key: Text
    operator: Text


class DataKeysWithdrawn(Event):
    """An operator withdrew the right to open personal data. Values that the subscriber has opened stay with it."""

    recipient: Text
    operator: Text


class IntakeQuarantined(Event):
    """A submitted message was refused. `quarantine_id` names its raw bytes at the owner.

    left_out: above 0 for a fact about this many messages of one minute, beyond a limit, of which nothing is kept.
    """

    quarantine_id: EventId
    publisher: Text
    subject: Text
    reason: Text
    left_out: Count = 0


def service_event(service: str, kind: type[E]) -> type[E]:
    """Returns the subclass of `kind`, one of the above, that `service` declares. Raises UnknownEventError for none."""
    prefix = f"{service}."
    own = [event for event in known_events() if issubclass(event, kind) and event.TYPE.startswith(prefix)]
    if not own:
        raise UnknownEventError(f"{service} declares no {kind.__name__} of its own")
    return max(own, key=lambda event: event.VERSION)
