"""What every service says about its own running: refusals, quarantine, dead letters. Each context owns its copies."""

from typing import TypeVar

from paybill_contracts.event import Event, UnknownEventError, known_events
from paybill_contracts.values import Count, EventId, Text

F = TypeVar("F", bound=Event)


class RequestRefused(Event):
    """A rule of the domain refused an authenticated caller. `code` is the problem's stable code."""

    refusal_id: EventId
    verb: Text
    code: Text
    target: Text


class MessageDeadLettered(Event):
    """A fact could not be handled after `attempts` tries; its tenant's queue waits for an operator.

    `message_key` names the dead letter: `<id of the fact>` at the hearer that says this.
    """

    message_key: EventId
    message_type: Text
    message_tenant: Text | None
    attempts: Count
    reason: Text


class MessageRedriven(Event):
    """An operator had the message tried again."""

    message_key: EventId
    operator: Text


class MessageSkipped(Event):
    """An operator let the queue go on without the message."""

    message_key: EventId
    operator: Text
    reason: Text


class IntakeQuarantined(Event):
    """A message that another client published was not recorded. `quarantine_id` finds its raw bytes at the owner."""

    quarantine_id: EventId
    publisher: Text
    subject: Text
    reason: Text


def service_event(service: str, kind: type[F]) -> type[F]:
    """The class with which `context` says `fact`, one of those above. Raises UnknownEventError when it has none."""
    prefix = f"{service}."
    own = [event for event in known_events() if issubclass(event, kind) and event.TYPE.startswith(prefix)]
    if not own:
        raise UnknownEventError(f"{service} declares no {kind.__name__} of its own")
    return max(own, key=lambda event: event.VERSION)
