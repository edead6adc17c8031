"""Access to a service's own PostgreSQL database.

Guarantees: an error that concerns PostgreSQL as a whole is raised as DatabaseUnavailableError, UnknownOutcomeError,
LeaseLostError or ConfigurationError, independent of the driver; a process that lost a lease cannot commit under it;
all replicas run migrations one at a time.
"""

from paybill_runtime.database.leases import Leases, fence, partition_lease
from paybill_runtime.database.pool import Connection, Database
from paybill_runtime.database.retry import retry_on_conflict
from paybill_runtime.database.statement import ExtraStatements, Statement

__all__ = [
    "Connection",
    "Database",
    "ExtraStatements",
    "Leases",
    "Statement",
    "fence",
    "partition_lease",
    "retry_on_conflict",
]
