"""Facts of cells: shared stacks of a region with a capacity, such as the databases of a pool."""

from paybill_contracts.event import Event
from paybill_contracts.placement import Isolation
from paybill_contracts.values import Count, EnvironmentId, Key, TenantId, Text


class CellFact(Event):
    """Common fields: the isolation level is the aggregate, because a tenant's region decides which of its cells fit."""

    isolation: Isolation
    region: Key
    number: Count


class CellOpened(CellFact, type="provisioner.cell_opened", version=1, aggregate="cells", key="isolation"):
    """A blueprint has this cell, or another capacity of it. tenants: number of those in it already."""

    capacity: Count
    tenants: Count = 0


class CellPlaceTaken(CellFact, type="provisioner.cell_place_taken", version=1, aggregate="cells", key="isolation"):
    """A tenant has a place in the cell."""

    tenant_id: TenantId
    environment_id: EnvironmentId


class CellPlaceFreed(CellFact, type="provisioner.cell_place_freed", version=1, aggregate="cells", key="isolation"):
    """A tenant has left the cell, and nothing of it is there."""

    tenant_id: TenantId
    environment_id: EnvironmentId


class CellDrained(CellFact, type="provisioner.cell_drained", version=1, aggregate="cells", key="isolation"):
    """The cell takes no new tenant; those in it stay."""

    reason: Text


class CellReopened(CellFact, type="provisioner.cell_reopened", version=1, aggregate="cells", key="isolation"):
    """The cell takes new tenants again."""

    reason: Text
