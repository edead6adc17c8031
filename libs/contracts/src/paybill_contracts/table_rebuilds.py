"""Facts of tables that are rebuilt with another first column: they are inspected before."""

from paybill_contracts.environment_plans import EnvironmentFact
from paybill_contracts.event import Value
from paybill_contracts.kinds import Address
from paybill_contracts.values import Count, Text


class InspectedTables(Value):
    """Tables of a schema as they exist.

    size_bytes: of all of them, with their indexes; obstacles: what Paybill did not make and a rebuild would lose.
    """

    address: Address
    size_bytes: Count
    obstacles: tuple[Text, ...] = ()


class TablesInspectionRequested(
    EnvironmentFact,
    type="provisioner.tables_inspection_requested",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """The tables of the schemas with these addresses have to be inspected before a plan can rebuild them."""

    addresses: tuple[Address, ...]


class TablesInspected(
    EnvironmentFact, type="provisioner.tables_inspected", version=1, aggregate="environment", key="environment_id"
):
    """The tables of these schemas were inspected. A plan that rebuilds them is made from that, or refused."""

    schemas: tuple[InspectedTables, ...]
