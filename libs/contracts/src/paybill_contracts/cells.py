"""Facts of cells: shared stacks of a region with a capacity, such as the databases of a pool."""

from enum import StrEnum

from paybill_contracts.event import Event, Value
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


class Guarantee(StrEnum):
    """A condition without which a tenant of a shared stack could reach its neighbours' data.

    row_level_security: enabled and forced on every table of a pool. policy: exactly ours, by its expression. views,
    functions, publications: none that is not ours. grants: none but ours, and every object has our owner. logins: no
    login of a tenant has a privileged attribute or another membership. public: PUBLIC has no privilege.
    """

    ROW_LEVEL_SECURITY = "row_level_security"
    POLICY = "policy"
    VIEWS = "views"
    FUNCTIONS = "functions"
    PUBLICATIONS = "publications"
    GRANTS = "grants"
    LOGINS = "logins"
    PUBLIC = "public"


class Breach(Value):
    """A guarantee that does not hold, the object at which, and what was found there instead."""

    guarantee: Guarantee
    object: Text
    found: Text


class IsolationBreached(CellFact, type="provisioner.isolation_breached", version=1, aggregate="cells", key="isolation"):
    """Guarantees do not hold in the cell: it takes no new tenant until they do. It is published again when they differ.

    others: breaches beside those that are listed.
    """

    breaches: tuple[Breach, ...]
    others: Count = 0


class IsolationRestored(CellFact, type="provisioner.isolation_restored", version=1, aggregate="cells", key="isolation"):
    """All guarantees hold again: the cell takes new tenants."""
