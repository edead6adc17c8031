"""What internal services offer through INTAKE; billing owns the type and decides whether it becomes a fact."""

from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.event import Event
from paybill_contracts.values import Count, Key, TenantId, Timestamp

ItemName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$"),
    Field(examples=["user-4711"]),
]
"""An opaque name of what was used. Only its digest is kept, but a digest of a guessable name can be guessed."""


class Usage(Event, type="usage.recorded", version=1, aggregate="usage", key="tenant_id"):
    """A tenant used `quantity` units of `meter` at `occurred_at`.

    of: which of the things that the meter tells apart, where it counts different ones.
    """

    tenant_id: TenantId
    meter: Key
    quantity: Count
    occurred_at: Timestamp
    of: ItemName | None = None
