"""HTTP API for voided events: declares void what somebody else wrote into the log."""

from typing import Annotated

from fastapi import APIRouter, Depends
from paybill_contracts.inputs import PlainText
from paybill_contracts.values import Digest, EventId, Text
from paybill_contracts.voided_events import EventVoided
from paybill_runtime import clock
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.auth import Role
from paybill_runtime.http.caller import Caller, caller
from paybill_runtime.http.router import Router
from pydantic import BaseModel, ConfigDict, Field

Admin = Annotated[Caller, Depends(caller(Role.ADMIN, "tenant:write"))]


class VoidBody(BaseModel):
    """The event that is void, named by its place, its id and the digest of its payload."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sequence: Annotated[int, Field(ge=1, le=10**15, description="The place of the event in the log.")]
    event_id: EventId
    digest: Annotated[Digest, Field(description="SHA-256 of the payload.")]
    subject: Text
    reason: Annotated[PlainText, Field(description="Kept in the log permanently: no personal data.")]


class VoidView(BaseModel):
    """A voided event."""

    void_id: EventId
    sequence: int


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of voided events."""
    routes = Router(prefix="/v1/voided-events", tags=["voided events"])

    @routes.post("")
    async def void(body: VoidBody, principal: Admin) -> VoidView:
        """Declares an event void. Services that have not handled it skip it; what was decided because of it stays."""
        void_id = clock.new_id()

        def decide(unit: UnitOfWork, at: DecisionContext) -> VoidView:
            fact = EventVoided(void_id=void_id, by=principal.subject, voided_at=at.now, **body.model_dump())
            unit.emit(fact)
            return VoidView(void_id=void_id, sequence=body.sequence)

        return await context.decide(
            principal.origin,
            decide,
            verb="void_event",
            target=str(body.sequence),
            idempotency=principal.idempotency,
            response_type=VoidView,
        )

    return routes
