"""Facts of purges: everything that exists for a tenant is deleted, and the certificate lists what was read back."""

from paybill_contracts.environment_plans import EnvironmentFact
from paybill_contracts.event import Value
from paybill_contracts.kinds import Address, Name
from paybill_contracts.placement import Isolation
from paybill_contracts.provisioner import Export
from paybill_contracts.values import Digest, Key, Text, Timestamp


class Absence(Value):
    """A deleted resource whose absence was observed at the provider.

    name: that of a schema with its database. how: what was read; verified_at: when.
    """

    address: Address
    kind: Key
    isolation: Isolation
    name: Name
    how: Text
    verified_at: Timestamp


class RemovedExport(Value):
    """An export of the tenant's data that was removed, and how and when its absence was observed."""

    export: Export
    how: Text
    verified_at: Timestamp


class Certificate(Value):
    """Certificate of a purge: nothing of these resources exists any more.

    plan_hash: of the last plan of deletions, None when nothing was built. export: None when there was no file.
    """

    plan_hash: Digest | None
    resources: tuple[Absence, ...]
    export: RemovedExport | None
    purged_at: Timestamp


class DeletionStarted(
    EnvironmentFact, type="provisioner.deletion_started", version=1, aggregate="environment", key="environment_id"
):
    """The retention period is over, or the last legal hold that stopped the deletion ended: everything is deleted."""

    since: Timestamp


class DeletionStopped(
    EnvironmentFact, type="provisioner.deletion_stopped", version=1, aggregate="environment", key="environment_id"
):
    """Legal holds for these cases stop the deletion before its next step.

    is_intact: no deletion had begun, so that the data is retained again; else what is left waits.
    """

    cases: tuple[Text, ...]
    is_intact: bool


class DeletionEnded(
    EnvironmentFact, type="provisioner.deletion_ended", version=1, aggregate="environment", key="environment_id"
):
    """The last step of the deletion is done; the absence of every resource is read back next, and the export removed.

    plan_hash: None when nothing was built.
    """

    plan_hash: Digest | None


class EnvironmentPurged(
    EnvironmentFact, type="provisioner.environment_purged", version=1, aggregate="environment", key="environment_id"
):
    """Nothing of the tenant exists any more, as the certificate says."""

    certificate: Certificate
