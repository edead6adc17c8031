"""Routes for operators: the background jobs of a service."""

from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from paybill_contracts.inputs import PlainText
from paybill_contracts.values import TenantId
from pydantic import BaseModel, Field
from sqlalchemy import Row

from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.http.auth import Role
from paybill_runtime.http.caller import Caller, caller
from paybill_runtime.http.router import Router
from paybill_runtime.jobs.listing import JobFilter
from paybill_runtime.jobs.queue import Ends, JobQueue

Limit = Annotated[int, Query(ge=1, le=500)]


class JobView(BaseModel):
    """A background job."""

    id: UUID
    kind: str
    key: Annotated[str, Field(description="The tenant, or the resource on which the job works.")]
    priority: Annotated[str, Field(description="`security`, `interactive` or `bulk`.")]
    state: Annotated[str, Field(description="`pending`, `done`, `failed` or `cancelled`.")]
    due: datetime
    deadline: Annotated[datetime | None, Field(description="After this time a failed attempt is the last one.")]
    attempts: Annotated[int, Field(description="Failed attempts, or all of a job that ended.")]
    waits: Annotated[int, Field(description="How often in a row it waited for a system that was away.")]
    error: Annotated[str | None, Field(description="The last failure, or the reason why the job waits.")]
    event_id: Annotated[UUID | None, Field(description="The fact that requires it.")]
    ended_at: datetime | None
    cursor: Annotated[str | None, Field(description="Place in the list: send it as `after` for the jobs behind it.")]

    @classmethod
    def of(cls, row: Row[tuple[object, ...]], cursor: str | None = None) -> Self:
        """Returns the view of `row`."""
        return cls(
            id=row.job_id,
            kind=row.kind,
            key=row.key,
            priority=Priority(row.priority).name.lower(),
            state=row.state,
            due=row.due,
            deadline=row.deadline,
            attempts=row.attempts,
            waits=row.waits,
            error=row.error,
            event_id=row.event_id,
            ended_at=row.ended_at,
            cursor=cursor,
        )


class Reason(BaseModel):
    """The operator's reason; it is recorded in the log."""

    reason: PlainText


def routes(service: str, queue: JobQueue, kept: Collection[str], ends: Ends) -> APIRouter:
    """Returns the routes below `/v1/operations/jobs`.

    kept: kinds of jobs that cannot be cancelled. ends: what is recorded when one is.
    """
    router = Router(prefix="/v1/operations/jobs", tags=["operations"])
    viewer = Annotated[Caller, Depends(caller(Role.VIEWER, f"{service}:read"))]
    operator = Annotated[Caller, Depends(caller(Role.OPERATOR, f"{service}:write"))]

    @router.get("")
    async def jobs(
        _: viewer,
        state: JobFilter = JobFilter.PENDING,
        kind: Annotated[str, Query(max_length=200)] = "",
        tenant: Annotated[TenantId | None, Query(description="Only jobs that facts of this tenant require.")] = None,
        after: Annotated[str, Query(max_length=100, description="Only jobs behind this `cursor` of the list.")] = "",
        limit: Limit = 100,
    ) -> list[JobView]:
        """Background jobs: pending ones in the order of their class and time, failed ones, or ended ones."""
        page = await queue.list(state, kind, tenant or "", after, limit)
        return [JobView.of(row, cursor) for row, cursor in page]

    @router.get("/{job_id}")
    async def job(_: viewer, job_id: UUID) -> JobView:
        """One job. Finished jobs are deleted after a time."""
        return JobView.of(await queue.job(job_id))

    @router.post("/{job_id}/retry")
    async def retry(job_id: UUID, caller_: operator) -> JobView:
        """Makes a job due now, with all attempts again."""
        return JobView.of(await queue.retry(job_id, caller_.origin))

    @router.post("/{job_id}/cancel")
    async def cancel(job_id: UUID, body: Reason, caller_: operator) -> JobView:
        """Ends a job without another attempt; an attempt that runs now ends by itself. `retry` takes it back."""
        return JobView.of(await queue.cancel(job_id, caller_.origin, body.reason, kept, ends))

    return router
