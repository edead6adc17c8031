"""Incidents: problems that a service found, each open until it ends or an operator closes it."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, assert_never

from pydantic import Field, StringConstraints

from paybill_contracts.errors import NotFoundError
from paybill_contracts.event import Event, Value
from paybill_contracts.operations import service_event
from paybill_contracts.values import Key, TenantId, Text, Timestamp

IncidentId = Annotated[
    str,
    StringConstraints(pattern=r"^inc_[0-9a-f]{32}$"),
    Field(examples=["inc_0123456789abcdef0123456789abcdef"]),
]
"""Digest of service, kind and subject: an incident of one kind about one subject always has the same id."""


class Evidence(Value):
    """A named value that shows the problem, such as the status of a subscription; never personal data."""

    name: Key
    value: Text


CHARGE_WITHOUT_TENANT = "charge_without_tenant"
"""Kind of billing's incidents about what can still charge the customer of a tenant that left. subject: `kind/id`."""


class IncidentOpened(Event):
    """The service found a problem that needs a person. subject: the object, such as `subscription/sub_…`.

    command: the safe command that helps, with real values. since: the time from which on the problem exists.
    """

    incident_id: IncidentId
    kind: Key
    subject: Text
    tenant_id: TenantId | None
    summary: Text
    evidence: tuple[Evidence, ...]
    command: Text | None
    owner: Text | None
    since: Timestamp


class IncidentChanged(Event):
    """The service found another problem of the same kind and subject; the incident stays open, with its owner."""

    incident_id: IncidentId
    kind: Key
    subject: Text
    tenant_id: TenantId | None
    summary: Text
    evidence: tuple[Evidence, ...]
    command: Text | None


class IncidentAssigned(Event):
    """An operator made a person or a team the owner of the incident."""

    incident_id: IncidentId
    tenant_id: TenantId | None
    owner: Text
    by: Text


class IncidentClosed(Event):
    """The problem ended, or an operator closed the incident. It opens again when the problem is found again."""

    incident_id: IncidentId
    kind: Key
    subject: Text
    tenant_id: TenantId | None
    reason: Text
    by: Text
    closed_at: Timestamp


class TenantIncidentOpened(
    IncidentOpened, type="tenant.incident_opened", version=1, aggregate="incident", key="incident_id"
):
    """The tenant service found a problem."""


class TenantIncidentChanged(
    IncidentChanged, type="tenant.incident_changed", version=1, aggregate="incident", key="incident_id"
):
    """The tenant service found another problem about the subject of an open incident."""


class TenantIncidentAssigned(
    IncidentAssigned, type="tenant.incident_assigned", version=1, aggregate="incident", key="incident_id"
):
    """An operator assigned an incident of the tenant service."""


class TenantIncidentClosed(
    IncidentClosed, type="tenant.incident_closed", version=1, aggregate="incident", key="incident_id"
):
    """An incident of the tenant service ended, or an operator closed it."""


class BillingIncidentOpened(
    IncidentOpened, type="billing.incident_opened", version=1, aggregate="incident", key="incident_id"
):
    """The billing service found a problem."""


class BillingIncidentChanged(
    IncidentChanged, type="billing.incident_changed", version=1, aggregate="incident", key="incident_id"
):
    """The billing service found another problem about the subject of an open incident."""


class BillingIncidentAssigned(
    IncidentAssigned, type="billing.incident_assigned", version=1, aggregate="incident", key="incident_id"
):
    """An operator assigned an incident of the billing service."""


class BillingIncidentClosed(
    IncidentClosed, type="billing.incident_closed", version=1, aggregate="incident", key="incident_id"
):
    """An incident of the billing service ended, or an operator closed it."""


class ProvisionerIncidentOpened(
    IncidentOpened, type="provisioner.incident_opened", version=1, aggregate="incident", key="incident_id"
):
    """The provisioner service found a problem."""


class ProvisionerIncidentChanged(
    IncidentChanged, type="provisioner.incident_changed", version=1, aggregate="incident", key="incident_id"
):
    """The provisioner service found another problem about the subject of an open incident."""


class ProvisionerIncidentAssigned(
    IncidentAssigned, type="provisioner.incident_assigned", version=1, aggregate="incident", key="incident_id"
):
    """An operator assigned an incident of the provisioner service."""


class ProvisionerIncidentClosed(
    IncidentClosed, type="provisioner.incident_closed", version=1, aggregate="incident", key="incident_id"
):
    """An incident of the provisioner service ended, or an operator closed it."""


class AgentGatewayIncidentOpened(
    IncidentOpened, type="agent-gateway.incident_opened", version=1, aggregate="incident", key="incident_id"
):
    """The agent gateway found a problem."""


class AgentGatewayIncidentChanged(
    IncidentChanged, type="agent-gateway.incident_changed", version=1, aggregate="incident", key="incident_id"
):
    """The agent gateway found another problem about the subject of an open incident."""


class AgentGatewayIncidentAssigned(
    IncidentAssigned, type="agent-gateway.incident_assigned", version=1, aggregate="incident", key="incident_id"
):
    """An operator assigned an incident of the agent gateway."""


class AgentGatewayIncidentClosed(
    IncidentClosed, type="agent-gateway.incident_closed", version=1, aggregate="incident", key="incident_id"
):
    """An incident of the agent gateway ended, or an operator closed it."""


IncidentEvent = IncidentOpened | IncidentChanged | IncidentAssigned | IncidentClosed


class IncidentStatus(StrEnum):
    """Status of an incident: open while somebody has to act."""

    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that a rule found; the fields are those of `IncidentOpened`."""

    kind: Key
    subject: Text
    summary: Text
    evidence: tuple[Evidence, ...] = ()
    tenant_id: TenantId | None = None
    command: Text | None = None
    owner: Text | None = None


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident and its status. reason, closed_by and closed_at are None while it is open."""

    id: IncidentId
    kind: Key
    subject: Text
    tenant_id: TenantId | None
    summary: Text
    evidence: tuple[Evidence, ...]
    command: Text | None
    owner: Text | None
    since: Timestamp
    status: IncidentStatus = IncidentStatus.OPEN
    reason: Text | None = None
    closed_by: Text | None = None
    closed_at: Timestamp | None = None

    def shows(self, finding: Finding) -> bool:
        """Returns whether the incident is open and has the text of `finding`."""
        shown = self.status, self.summary, self.evidence, self.command
        return shown == (IncidentStatus.OPEN, finding.summary, finding.evidence, finding.command)


class IncidentNotFoundError(NotFoundError):
    """No incident has this id."""

    code = "incident_not_found"


def incident_id(service: str, kind: str, subject: str) -> IncidentId:
    """Returns the id of the incidents of a service about one subject."""
    return f"inc_{sha256(f'{service}/{kind}/{subject}'.encode()).hexdigest()[:32]}"


def open_incident(service: str, incident: Incident | None, finding: Finding, since: datetime) -> list[Event]:
    """Opens the incident of a finding. An open one gets its text, and no event when that is the same."""
    if incident is not None and incident.status is IncidentStatus.OPEN:
        return [] if incident.shows(finding) else [_changed(service, incident, finding)]
    return [
        service_event(service, IncidentOpened)(
            incident_id=incident_id(service, finding.kind, finding.subject),
            kind=finding.kind,
            subject=finding.subject,
            tenant_id=finding.tenant_id,
            summary=finding.summary,
            evidence=finding.evidence,
            command=finding.command,
            owner=finding.owner,
            since=since,
        )
    ]


def _changed(service: str, incident: Incident, finding: Finding) -> Event:
    return service_event(service, IncidentChanged)(
        incident_id=incident.id,
        kind=incident.kind,
        subject=incident.subject,
        tenant_id=incident.tenant_id,
        summary=finding.summary,
        evidence=finding.evidence,
        command=finding.command,
    )


def assign_incident(service: str, incident: Incident | None, owner: str, by: str) -> list[Event]:
    """Makes `owner` the owner of an incident. Raises IncidentNotFoundError."""
    incident = existing(incident)
    if incident.owner == owner:
        return []
    return [
        service_event(service, IncidentAssigned)(
            incident_id=incident.id, tenant_id=incident.tenant_id, owner=owner, by=by
        )
    ]


def close_incident(service: str, incident: Incident | None, reason: str, by: str, now: datetime) -> list[Event]:
    """Closes an incident; returns no events when none is open."""
    if incident is None or incident.status is IncidentStatus.CLOSED:
        return []
    return [
        service_event(service, IncidentClosed)(
            incident_id=incident.id,
            kind=incident.kind,
            subject=incident.subject,
            tenant_id=incident.tenant_id,
            reason=reason,
            by=by,
            closed_at=now,
        )
    ]


def existing(incident: Incident | None) -> Incident:
    """Returns the incident. Raises IncidentNotFoundError for None."""
    if incident is None:
        raise IncidentNotFoundError("there is no such incident; `paybill incident list` lists the open ones")
    return incident


def evolve(incident: Incident | None, event: IncidentEvent) -> Incident:
    """Returns the incident after `event`; only `IncidentOpened` may come first."""
    if isinstance(event, IncidentOpened):
        return Incident(
            id=event.incident_id,
            kind=event.kind,
            subject=event.subject,
            tenant_id=event.tenant_id,
            summary=event.summary,
            evidence=event.evidence,
            command=event.command,
            owner=event.owner,
            since=event.since,
        )
    incident = existing(incident)
    match event:
        case IncidentChanged():
            return replace(incident, summary=event.summary, evidence=event.evidence, command=event.command)
        case IncidentAssigned():
            return replace(incident, owner=event.owner)
        case IncidentClosed():
            return replace(
                incident,
                status=IncidentStatus.CLOSED,
                reason=event.reason,
                closed_by=event.by,
                closed_at=event.closed_at,
            )
        case _:
            assert_never(event)
