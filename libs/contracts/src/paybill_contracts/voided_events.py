"""Voided events: facts in the log that an operator declared void, because no service decided them."""

from hashlib import sha256

from paybill_contracts.event import Event
from paybill_contracts.values import Count, Digest, EventId, Text, Timestamp


class EventVoided(Event, type="tenant.event_voided", version=1, aggregate="voided-event", key="void_id"):
    """The event at `sequence` is void: services that have not handled it yet skip it, and replays leave it out.

    event_id, digest: of the voided message (its id in our tables, and SHA-256 of its payload), so that a message that
    is at this sequence in another copy of the log stays valid.
    """

    void_id: EventId
    sequence: Count
    event_id: EventId
    digest: Digest
    subject: Text
    reason: Text
    by: Text
    voided_at: Timestamp


def payload_digest(payload: bytes) -> str:
    """Returns the digest by which a void names a message."""
    return sha256(payload).hexdigest()
