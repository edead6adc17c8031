"""Routes for operators: the violated invariants of a service."""

from datetime import datetime
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Query
from paybill_contracts.invariants import Violation, ViolationStatus
from paybill_contracts.values import TenantId
from pydantic import BaseModel, Field

from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.violations import Violations
from paybill_runtime.http.auth import Role
from paybill_runtime.http.caller import Caller, caller
from paybill_runtime.http.listing import Limit, load_page
from paybill_runtime.http.router import Router


class ViolationView(BaseModel):
    """An invariant that does not hold for a tenant, or did not."""

    id: str
    service: str
    tenant_id: str
    number: Annotated[int, Field(description="The number of the invariant in docs/invariants.md.")]
    statement: str
    left: str
    right: str
    since: datetime
    status: ViolationStatus
    restored_at: datetime | None

    @classmethod
    def of(cls, service: str, violation: Violation) -> Self:
        """Returns the view of `violation`."""
        return cls(
            id=violation.id,
            service=service,
            tenant_id=violation.tenant_id,
            number=violation.number,
            statement=violation.statement,
            left=violation.left,
            right=violation.right,
            since=violation.since,
            status=violation.status,
            restored_at=violation.restored_at,
        )


class ViolationPage(BaseModel):
    """Violations in the order of their ids."""

    violations: list[ViolationView]
    next: Annotated[str | None, Field(description="Send it as `after` for the next page; null on the last.")]


def routes(context: ServiceContext, violations: Violations) -> APIRouter:
    """Returns the route `/v1/violations`."""
    router = Router(prefix="/v1/violations", tags=["invariants"])
    viewer = Annotated[Caller, Depends(caller(Role.VIEWER, f"{context.service}:read"))]

    @router.get("")
    async def list_all(
        _: viewer,
        status: Annotated[ViolationStatus, Query(description="`open`, or `restored`.")] = ViolationStatus.OPEN,
        tenant: Annotated[TenantId | None, Query(description="Only violations by this tenant.")] = None,
        after: Annotated[str | None, Query(max_length=200, description="`next` of the previous page.")] = None,
        limit: Limit = 50,
    ) -> ViolationPage:
        """Lists invariants that do not hold, in pages."""
        page, next_ = await load_page(context, violations, after, limit, status=status, tenant_id=tenant)
        return ViolationPage(violations=[ViolationView.of(context.service, each) for each in page], next=next_)

    return router
