"""Ids of messages in our tables."""

import re
from collections.abc import Mapping
from uuid import UUID, uuid5

from paybill_runtime.messaging.streams import EVENTS, INTAKE

_PUBLISHERS = UUID("5f0c4c2a-3a0e-4d0e-9d1e-6f0a1c8f2b11")
"""The namespace of ids that are derived from a publisher's: two publishers may use the same id."""
UUID_TEXT = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def message_id(stream: str, subject: str, headers: Mapping[str, str], sequence: int) -> str:
    """Returns the id of a message in our tables: the id of a fact, or one derived from its publisher's."""
    if stream == INTAKE:
        return str(uuid5(_PUBLISHERS, f"{third_token(subject)}/{headers.get('ce-id') or sequence}"))
    id_ = headers.get("ce-id", "")
    if UUID_TEXT.fullmatch(id_) is not None:
        return id_
    try:
        return str(UUID(id_))
    except ValueError:
        return str(uuid5(_PUBLISHERS, f"{EVENTS}/{sequence}"))


def third_token(subject: str) -> str:
    """Returns the third token of a subject: the partition of a fact, the publisher of an intake event."""
    return (*subject.split(".", 3), "", "", "")[2]
