"""Events that internal services submit through INTAKE; billing owns the type and accepts or refuses them."""

from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.event import Event
from paybill_contracts.values import Count, Key, TenantId, Timestamp

ItemName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$"),
    Field(examples=["user-4711"]),
]
"""Opaque name of a used item. Only its digest is stored, but the digest of a guessable name can be guessed."""


class Usage(Event, type="usage.recorded", version=1, aggregate="usage", key="tenant_id"):
    """A tenant used `quantity` units of `meter` at `occurred_at`.

    of: name of the item, for a meter that counts distinct items.
    """

    tenant_id: TenantId
    meter: Key
    quantity: Count
    occurred_at: Timestamp
    of: ItemName | None = None
