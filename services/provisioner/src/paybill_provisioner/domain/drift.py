"""Drift: recorded and observed resources are compared, and differences are repaired as policy says. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import assert_never

from paybill_contracts.drift import (
    EnvironmentDriftAccepted,
    EnvironmentDriftEnded,
    EnvironmentDriftFound,
    ResourceDifference,
    ResourceDriftKind,
)
from paybill_contracts.environment_plans import Resource
from paybill_contracts.errors import NotFoundError
from paybill_contracts.incidents import Evidence, Finding
from paybill_contracts.kinds import Bucket, Role, Schema
from paybill_contracts.placement import Isolation
from paybill_contracts.policy import DriftHandling
from paybill_contracts.provisioner import Access
from paybill_definitions.blueprint_rules import TENANT_COLUMN

from paybill_provisioner.domain.agent_logins import SETTINGS
from paybill_provisioner.domain.drift_state import Drift, DriftEvent
from paybill_provisioner.domain.environment_parts import BuiltResource
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.environments import existing

INCIDENT = "drift"
"""Kind of the incidents about environments that differ from their record."""

UNKNOWN_RESOURCE = "unknown_resource"
"""Kind of the incidents about resources whose environment is in no record."""

CLOSED_BY = "service:provisioner"
"""Actor that closes an incident which ended by itself; one that a person closed is accepted, and stays closed."""

ABSENT = "absent"
NOTHING = "none"
MAX_EVIDENCE = 10
_PROTECTION = frozenset({"login", "mode", "privileges", "public"})
"""Attributes that separate tenants, or decide who has access: their differences are of the highest severity."""
_CLASSES = (ResourceDriftKind.MISSING, ResourceDriftKind.MOVED, ResourceDriftKind.CHANGED, ResourceDriftKind.UNKNOWN)
"""Classes of differences, the most severe first."""
_NUMBER = re.compile("[0-9a-f]{32}")


class DifferenceUnknownError(NotFoundError):
    """The environment has no such difference."""

    code = "difference_unknown"


@dataclass(frozen=True, slots=True)
class Observed:
    """A resource as it exists at the provider.

    name: as `Resource.identity`. tenant_id: by its tag; None for one that tenants share. attributes, outputs: values
    that can be compared with those of a record.
    """

    kind: str
    name: str
    tenant_id: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Repairs:
    """Addresses of resources that a plan repairs: those that it creates again, and those that it sets again."""

    missing: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()


def is_comparable(environment: Environment) -> bool:
    """Returns whether nothing of the environment changes now, so that a difference is one."""
    match environment.status:
        case Status.READY:
            return not environment.remaining
        case Status.RETAINED | Status.PURGED:
            return True
        case Status.REGISTERED | Status.BUILDING | Status.FAILED | Status.COMPENSATING | Status.CHANGING:
            return False
        case Status.RETAINING | Status.RESTORING | Status.PURGING:
            return False
        case _:
            assert_never(environment.status)


def differences(environment: Environment, observed: Sequence[Observed]) -> list[ResourceDifference]:
    """Returns the differences of an environment, in the order of its resources."""
    found = {(each.kind, each.name): each for each in observed}
    own = [each for each in observed if each.tenant_id == environment.tenant_id]
    recorded = {(each.resource.kind, each.resource.identity) for each in environment.built}
    recorded |= {(each.kind, each.identity) for each in environment.replaced}
    unknown = {(each.kind, each.name): each for each in own if (each.kind, each.name) not in recorded}
    result: list[ResourceDifference] = []
    outputs = environment.outputs
    for built in environment.built:
        resource = built.resource
        if resource.kind == "secret" and "secret" not in outputs[resource.address]:
            continue  # it is made on demand, and nobody has requested it
        there = found.get((resource.kind, resource.identity))
        if there is not None:
            result += _changes(environment, built, there)
            continue
        elsewhere = next((key for key in unknown if _is_elsewhere(resource, *key)), None)
        if elsewhere is not None:
            unknown.pop(elsewhere)
        result.append(
            ResourceDifference(
                kind=ResourceDriftKind.MISSING if elsewhere is None else ResourceDriftKind.MOVED,
                resource_kind=resource.kind,
                name=resource.identity,
                address=resource.address,
                expected=resource.identity,
                observed=elsewhere[1] if elsewhere else None,
            )
        )
    result += [
        ResourceDifference(kind=ResourceDriftKind.UNKNOWN, resource_kind=kind, name=name, observed=name)
        for kind, name in sorted(unknown)
    ]
    return result


def _is_elsewhere(resource: Resource, kind: str, name: str) -> bool:
    """Returns whether a resource of the tenant is the recorded one at another place, such as in another database."""
    return kind == resource.kind and name.rpartition("/")[2] == resource.identity.rpartition("/")[2]


def _changes(environment: Environment, built: BuiltResource, there: Observed) -> Iterator[ResourceDifference]:
    resource = built.resource
    for attribute, value in _expected(environment, resource).items():
        found = there.attributes.get(attribute, ABSENT)
        if found != value:
            yield _difference(ResourceDriftKind.CHANGED, resource, attribute, value, found)
    for output, value in there.outputs.items():
        recorded = built.outputs.get(output)
        if recorded is not None and recorded != value:
            yield _difference(ResourceDriftKind.MOVED, resource, output, recorded, value)


def _difference(
    kind: ResourceDriftKind, resource: Resource, attribute: str, expected: str, observed: str
) -> ResourceDifference:
    return ResourceDifference(
        kind=kind,
        resource_kind=resource.kind,
        name=resource.identity,
        address=resource.address,
        attribute=attribute,
        expected=expected,
        observed=observed,
    )


def _expected(environment: Environment, resource: Resource) -> dict[str, str]:
    """Returns the comparable attributes of a recorded resource, as drivers observe them."""
    match resource.attributes:
        case Role(connection_limit=limit, agents=agents):
            access, of_agents = environment.access, agents is not None
            login = "no" if access is Access.CLOSED or (of_agents and access is not Access.OPEN) else "yes"
            known = {"connection_limit": str(limit), "privileges": NOTHING}
            if of_agents:
                known["settings"] = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
            return known | ({"login": login} if access is environment.target_access else {})
        case Schema(tables=tables, tenant_column=with_tenant):
            columns = {f"{table.name}.{column.name}": column.type for table in tables for column in table.columns}
            return columns | ({f"{table.name}.{TENANT_COLUMN}": "text" for table in tables} if with_tenant else {})
        case Bucket():
            return {"mode": "0700"}
        case _ if resource.kind == "database" and resource.isolation is Isolation.SILO:
            return {"public": NOTHING}
        case _:
            return {}


def checked(environment: Environment, found: Sequence[ResourceDifference], now: datetime) -> list[DriftEvent]:
    """Returns the differences that are new, and the end of those that are gone. A known one is not published again."""
    known = {each.difference.id: each for each in environment.drift}
    of = environment.tenant_id, environment.id
    events: list[DriftEvent] = []
    for difference in found:
        before = known.pop(difference.id, None)
        if before is None or before.difference != difference or before.repaired:
            events.append(_found(of, difference, now, after_repair=before is not None and before.repaired))
    events += [
        EnvironmentDriftEnded(tenant_id=of[0], environment_id=of[1], difference=each.difference, ended_at=now)
        for each in known.values()
    ]
    return events


def _found(
    of: tuple[str, str], difference: ResourceDifference, now: datetime, *, after_repair: bool
) -> EnvironmentDriftFound:
    return EnvironmentDriftFound(
        tenant_id=of[0], environment_id=of[1], difference=difference, found_at=now, after_repair=after_repair
    )


def accept(
    environment: Environment | None, id_: str, difference_id: str, reason: str, accepted_by: str
) -> list[DriftEvent]:
    """Accepts a difference with its observed value. Raises EnvironmentUnknownError, DifferenceUnknownError."""
    environment = existing(environment, id_)
    for each in environment.drift:
        if each.difference.id == difference_id:
            if each.accepted is not None:
                return []
            return [
                EnvironmentDriftAccepted(
                    tenant_id=environment.tenant_id,
                    environment_id=environment.id,
                    difference=each.difference,
                    reason=reason,
                    accepted_by=accepted_by,
                )
            ]
    raise DifferenceUnknownError(f"{environment.slug} has no difference {difference_id}; it may have ended")


def repairs_of(environment: Environment, handling: DriftHandling | None) -> Repairs:
    """Returns what a plan repairs. handling: by policy, None for a plan that a person makes.

    A difference that was found again after its repair is repeated by a person only. What is unknown, and data at
    another place, is never touched.
    """
    if handling is DriftHandling.REPORT:
        return Repairs()
    missing, changed = set(), set()
    for each in environment.drift:
        difference = each.difference
        if each.accepted is not None or each.repaired or difference.address is None:
            continue
        if each.unrepaired and handling is not None:
            continue
        if difference.kind is ResourceDriftKind.MISSING:
            missing.add(difference.address)
        elif difference.attribute is not None:
            changed.add(difference.address)
    return Repairs(frozenset(missing), frozenset(changed))


def with_accepted(environment: Environment, resource: Resource) -> Resource:
    """Returns the resource as a change has to leave it: an accepted difference of an attribute stays.

    It ends when another value than the one that it differs from is desired.
    """
    values = {}
    for each in environment.drift:
        difference, attribute = each.difference, each.difference.attribute or ""
        if each.accepted is None or difference.address != resource.address or difference.observed is None:
            continue
        desired = getattr(resource.attributes, attribute, None)
        if isinstance(desired, int) and difference.expected == str(desired):
            values[attribute] = int(difference.observed)
    if not values:
        return resource
    return resource.model_copy(update={"attributes": resource.attributes.model_copy(update=values)})


def subject_of(environment_id: str) -> str:
    """Returns the subject of an environment's incident."""
    return f"environment/{environment_id}"


def finding_of(environment: Environment) -> Finding | None:
    """Returns the incident of an environment with differences that nobody accepted; None without any."""
    open_ = [each.difference for each in by_severity(environment.drift) if each.accepted is None]
    if not open_:
        return None
    more = f", and {len(open_) - 1} more" if len(open_) > 1 else ""
    return Finding(
        kind=INCIDENT,
        subject=subject_of(environment.id),
        summary=f"the environment of {environment.slug} differs from its record: {open_[0].text}{more}"[:500],
        evidence=tuple(Evidence(name=each.kind, value=each.text[:500]) for each in open_[:MAX_EVIDENCE]),
        tenant_id=environment.tenant_id,
        command=f"paybill environment drift {environment.slug}",
    )


def by_severity(drift: Iterable[Drift]) -> list[Drift]:
    """Returns the differences with the most severe first: protection of data, then what is missing."""

    def severity(each: Drift) -> tuple[bool, int]:
        return each.difference.attribute not in _PROTECTION, _CLASSES.index(each.difference.kind)

    return sorted(drift, key=severity)


def number_in(subject: str) -> str:
    """Returns the number of a tenant in the subject of an incident about an unknown resource; empty without one."""
    found = _NUMBER.search(subject)
    return found[0] if found else ""


def unknown_finding(observed: Observed) -> Finding:
    """Returns the incident of a resource whose environment is in no record."""
    return Finding(
        kind=UNKNOWN_RESOURCE,
        subject=f"{observed.kind}/{observed.name}"[:500],
        summary=f"the {observed.kind} {observed.name} carries our tag and belongs to no environment"[:500],
        evidence=(Evidence(name="observed", value=observed.name[:500]),),
    )
