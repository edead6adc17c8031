"""Drift of environments: differences between what is recorded and what a provider has."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.environment_plans import EnvironmentFact
from paybill_contracts.event import Value, digest
from paybill_contracts.kinds import Address
from paybill_contracts.values import Key, Text, Timestamp

DifferenceId = Annotated[
    str, StringConstraints(pattern=r"^dif_[0-9a-f]{16}$"), Field(examples=["dif_0123456789abcdef"])
]
"""Digest of a difference without the observed value: the same difference of a resource always has the same id."""


class ResourceDriftKind(StrEnum):
    """Class of a difference.

    missing: a recorded resource does not exist. changed: an attribute has another value. unknown: a resource carries
    our tag and is in no record. moved: a recorded resource is at another place.
    """

    MISSING = "missing"
    CHANGED = "changed"
    UNKNOWN = "unknown"
    MOVED = "moved"


class ResourceDifference(Value):
    """A difference of one resource. address: None when it is unknown; attribute: None when the whole resource differs.

    name: at the provider. expected and observed: None for what does not exist.
    """

    kind: ResourceDriftKind
    resource_kind: Key
    name: Text
    address: Address | None = None
    attribute: Text | None = None
    expected: Text | None = None
    observed: Text | None = None

    @property
    def key(self) -> tuple[ResourceDriftKind, str, str, str | None]:
        """Identity of the difference, without the values."""
        return self.kind, self.resource_kind, self.name, self.attribute

    @property
    def id(self) -> str:
        """Its id, which does not follow from the values."""
        return f"dif_{digest(list(self.key))[:16]}"

    @property
    def text(self) -> str:
        """The difference for people."""
        place = f"{self.address or self.resource_kind} ({self.name})"
        match self.kind:
            case ResourceDriftKind.MISSING:
                return f"{place} is missing"
            case ResourceDriftKind.UNKNOWN:
                return f"{place} is in no record"
            case ResourceDriftKind.CHANGED | ResourceDriftKind.MOVED:
                what = f" {self.attribute}" if self.attribute else ""
                return f"{place}{what} is {self.observed} instead of {self.expected}"


class EnvironmentDriftFound(
    EnvironmentFact, type="provisioner.drift_found", version=1, aggregate="environment", key="environment_id"
):
    """A resource differs from its record. It is published again only with another observed value, or after a repair.

    after_repair: a plan repaired it, and it was found again.
    """

    difference: ResourceDifference
    found_at: Timestamp
    after_repair: bool = False


class EnvironmentDriftEnded(
    EnvironmentFact, type="provisioner.drift_ended", version=1, aggregate="environment", key="environment_id"
):
    """A difference was not found any more."""

    difference: ResourceDifference
    ended_at: Timestamp


class EnvironmentDriftAccepted(
    EnvironmentFact, type="provisioner.drift_accepted", version=1, aggregate="environment", key="environment_id"
):
    """A person accepted the difference with its observed value: it is not repaired and no problem any more."""

    difference: ResourceDifference
    reason: Text
    accepted_by: Text
