"""Routes for operators: the incidents of a service, their owners and their end."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Path, Query
from paybill_contracts.event import Event
from paybill_contracts.incidents import (
    Incident,
    IncidentNotFoundError,
    IncidentStatus,
    assign_incident,
    close_incident,
    existing,
)
from paybill_contracts.inputs import PlainText
from paybill_contracts.values import Key, TenantId
from pydantic import BaseModel, ConfigDict, Field

from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.auth import Role
from paybill_runtime.http.caller import Caller, caller
from paybill_runtime.http.listing import Limit, load_page, load_state
from paybill_runtime.http.router import Router

Id = Annotated[str, Path(pattern=r"^inc_[0-9a-f]{32}$", examples=["inc_0123456789abcdef0123456789abcdef"])]


class EvidenceView(BaseModel):
    """A named value that shows the problem."""

    name: str
    value: str


class IncidentView(BaseModel):
    """A problem that the service found."""

    id: str
    service: str
    kind: str
    subject: Annotated[str, Field(description="The object that has the problem, such as `subscription/sub_…`.")]
    tenant_id: str | None
    summary: str
    evidence: list[EvidenceView]
    command: Annotated[str | None, Field(description="The safe command that helps, with real values.")]
    owner: str | None
    since: datetime
    status: IncidentStatus
    reason: Annotated[str | None, Field(description="Reason why it is closed.")]
    closed_by: str | None
    closed_at: datetime | None

    @classmethod
    def of(cls, service: str, incident: Incident) -> Self:
        """Returns the view of `incident`."""
        return cls(
            id=incident.id,
            service=service,
            kind=incident.kind,
            subject=incident.subject,
            tenant_id=incident.tenant_id,
            summary=incident.summary,
            evidence=[EvidenceView(name=each.name, value=each.value) for each in incident.evidence],
            command=incident.command,
            owner=incident.owner,
            since=incident.since,
            status=incident.status,
            reason=incident.reason,
            closed_by=incident.closed_by,
            closed_at=incident.closed_at,
        )


class IncidentPage(BaseModel):
    """Incidents, the oldest first."""

    incidents: list[IncidentView]
    next: Annotated[str | None, Field(description="Send it as `after` for the next page; null on the last.")]


class AssignBody(BaseModel):
    """The new owner."""

    model_config = ConfigDict(extra="forbid")

    owner: Annotated[PlainText, Field(description="A person's or a team's name in your organisation.")]


class CloseBody(BaseModel):
    """The reason why nobody has to act any more."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[PlainText, Field(description="Kept in the log permanently: no personal data.")]


def routes(context: ServiceContext, incidents: Incidents) -> APIRouter:
    """Returns the routes below `/v1/incidents`."""
    router = Router(prefix="/v1/incidents", tags=["incidents"])
    service = context.service
    viewer = Annotated[Caller, Depends(caller(Role.VIEWER, f"{service}:read"))]
    operator = Annotated[Caller, Depends(caller(Role.OPERATOR, f"{service}:write"))]

    async def act(
        principal: Caller, id_: str, verb: str, events: Callable[[Incident, datetime], Sequence[Event]]
    ) -> IncidentView:
        def decide(unit: UnitOfWork, at: DecisionContext) -> IncidentView:
            unit.record(incidents, id_, events(existing(unit.get(incidents, id_)), at.now))
            return IncidentView.of(service, existing(unit.get(incidents, id_)))

        return await context.decide(
            principal.origin,
            decide,
            writes=[incidents.key(id_)],
            verb=verb,
            target=id_,
            idempotency=principal.idempotency,
            response_type=IncidentView,
        )

    @router.get("")
    async def list_all(
        _: viewer,
        status: Annotated[IncidentStatus, Query(description="`open`, or `closed`.")] = IncidentStatus.OPEN,
        kind: Annotated[Key | None, Query(description="Only incidents of this kind.")] = None,
        tenant: Annotated[TenantId | None, Query(description="Only incidents about this tenant.")] = None,
        owner: Annotated[PlainText | None, Query(description="Only incidents of this owner.")] = None,
        after: Annotated[str | None, Query(max_length=200, description="`next` of the previous page.")] = None,
        limit: Limit = 50,
    ) -> IncidentPage:
        """Lists incidents in pages, the oldest first."""
        page, next_ = await load_page(
            context,
            incidents,
            after,
            limit,
            order_by="opened",
            status=status,
            kind=kind,
            tenant_id=tenant,
            owner=owner,
        )
        return IncidentPage(incidents=[IncidentView.of(service, each) for each in page], next=next_)

    @router.get("/{incident}")
    async def show(incident: Id, _: viewer) -> IncidentView:
        """Shows one incident."""
        found = await load_state(context, incidents, incident)
        if found is None:
            raise IncidentNotFoundError(f"there is no incident {incident}")
        return IncidentView.of(service, found)

    @router.post("/{incident}/assign")
    async def assign(incident: Id, body: AssignBody, principal: operator) -> IncidentView:
        """Makes a person or a team the owner of an incident."""
        return await act(
            principal,
            incident,
            "assign_incident",
            lambda state, _: assign_incident(service, state, body.owner, principal.origin.actor),
        )

    @router.post("/{incident}/close")
    async def close(incident: Id, body: CloseBody, principal: operator) -> IncidentView:
        """Closes an incident. It opens again when the service finds the problem again."""
        return await act(
            principal,
            incident,
            "close_incident",
            lambda state, now: close_incident(service, state, body.reason, principal.origin.actor, now),
        )

    return router
