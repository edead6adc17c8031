"""What internal services offer through INTAKE; billing owns the type and decides whether it becomes a fact."""

from paybill_contracts.event import Event
from paybill_contracts.values import Count, Key, TenantId, Timestamp


class Usage(Event, type="usage.recorded", version=1, aggregate="usage", key="tenant_id"):
    """A tenant used `quantity` units of `meter` at `occurred_at`."""

    tenant_id: TenantId
    meter: Key
    quantity: Count
    occurred_at: Timestamp
