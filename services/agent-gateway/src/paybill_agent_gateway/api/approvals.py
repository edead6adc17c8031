"""Routes about approvals of calls: listed, shown with every row, approved and rejected by a person."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated

import orjson
from fastapi import APIRouter, Path, Query
from paybill_contracts.agent_bundles import ResourceColumn
from paybill_contracts.agent_runs import Fields, RunId
from paybill_contracts.inputs import PlainText
from paybill_contracts.personal import Personal
from paybill_contracts.plan_approvals import ApprovalId
from paybill_contracts.values import Digest
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.caller import Caller
from paybill_runtime.http.listing import Limit, load_page, load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlmodel import col

from paybill_agent_gateway.api.approval_views import (
    STATUS,
    CallApprovalDetails,
    CallApprovalStatus,
    CallApprovalView,
    CallView,
    Plain,
    RowView,
)
from paybill_agent_gateway.api.callers import Approver, Viewer
from paybill_agent_gateway.domain import approvals, runs
from paybill_agent_gateway.domain.refusals import ApprovalNotFoundError
from paybill_agent_gateway.domain.runs import Run, RunEvent
from paybill_agent_gateway.tables import BUNDLES, RUNS, RunRow, TenantRow

Id = Annotated[ApprovalId, Path(description="Id of the approval.")]
_UNKNOWN = ResourceColumn(name="unknown", type="text", nullable=True, untrusted=True)
"""A column that the run's bundle does not name is shown like an untrusted one."""
Decision = Callable[[Run, datetime], Sequence[RunEvent]]


class ApprovalPage(BaseModel):
    """The current approval of each run, in the order of the runs' ids."""

    approvals: list[CallApprovalView]
    next: Annotated[RunId | None, Field(description="Send it as `after` for the next page; null on the last.")]


class ApproveBody(BaseModel):
    """The call that is approved."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject_hash: Annotated[Digest, Field(description="Hash of the call and the rows that the approver has seen.")]


class RejectBody(BaseModel):
    """A rejection."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Annotated[PlainText, Field(description="Kept in the log permanently: no personal data.")]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of approvals."""
    routes = Router(prefix="/v1/approvals", tags=["approvals"])

    @routes.get("")
    async def show_all(
        _: Viewer,
        status: Annotated[CallApprovalStatus | None, Query(description="Only approvals with this status.")] = None,
        after: Annotated[
            RunId | None, Query(description="Only runs after this id: `next` of the previous page.")
        ] = None,
        limit: Limit = 50,
    ) -> ApprovalPage:
        """Lists the current approval of each run, in pages; a used one has left its run's state."""
        matching = [own for own, shown in STATUS.items() if shown is status]
        page, next_ = await load_page(
            context,
            RUNS,
            after,
            limit,
            col(RunRow.approval_id).is_not(None),
            approval_status=matching[0] if matching else None,
        )
        now = context.now()
        slugs = await _slugs(context, [each.tenant_id for each in page])
        views = [
            CallApprovalView.of(each, slugs.get(each.tenant_id, each.tenant_id), each.approval, now)
            for each in page
            if each.approval is not None
        ]
        return ApprovalPage(approvals=views, next=next_)

    @routes.get("/{approval}")
    async def show(approval: Id, _: Viewer) -> CallApprovalDetails:
        """Shows an approval with its call: every row before and after it. Other people's texts are cut.

        Refused with `approval_not_found`.
        """
        run = await _run_of(context, approval)
        found = approvals.find(run, approval)
        slug = (await _slugs(context, [run.tenant_id])).get(run.tenant_id, run.tenant_id)
        view = CallApprovalView.of(run, slug, found, context.now())
        columns = await _columns(context, run, found.resource)
        rows = [
            RowView(
                before=await _plain(context, columns, row.before) if row.before is not None else None,
                after=await _plain(context, columns, row.after) if row.after is not None else None,
            )
            for row in found.rows
        ]
        call = CallView(
            slug=view.slug,
            run_id=run.id,
            workflow=run.workflow,
            step=found.step,
            seq=found.seq,
            verb=found.verb,
            resource=found.resource,
            subject_hash=found.subject_hash,
            arguments=await _plain(context, columns, found.arguments),
            rows=rows,
            other_rows=found.other_rows,
        )
        return CallApprovalDetails(approval=view, call=call)

    @routes.post("/{approval}/approve")
    async def approve(approval: Id, body: ApproveBody, principal: Approver) -> CallApprovalView:
        """Approves the call with this hash; it can be executed once, until the approval expires.

        Refused with `approval_mismatch` (another hash, the requester, or a program), `approval_ended` and
        `approval_not_found`.
        """
        return await _decide(
            context,
            principal,
            approval,
            "approve",
            lambda run, now: approvals.grant(run, approval, body.subject_hash, principal.subject, now),
        )

    @routes.post("/{approval}/reject")
    async def reject(approval: Id, body: RejectBody, principal: Approver) -> CallApprovalView:
        """Rejects the call; the agent gets the refusal when it repeats it. Refused with `approval_ended`."""
        return await _decide(
            context,
            principal,
            approval,
            "reject",
            lambda run, now: approvals.deny(run, approval, principal.subject, body.reason, now),
        )

    return routes


async def _run_of(context: ServiceContext, approval: str) -> Run:
    """Returns the run with this approval, also an earlier one. Raises ApprovalNotFoundError."""
    earlier = col(RunRow.state)["earlier_approvals"].contains([{"id": approval}])
    for condition in (col(RunRow.approval_id) == approval, earlier):
        page, _ = await load_page(context, RUNS, None, 1, condition)
        if page:
            return page[0]
    raise ApprovalNotFoundError(f"no call has the approval {approval}; `paybill approval list` lists all of them")


async def _slugs(context: ServiceContext, tenants: Sequence[str]) -> Mapping[str, str]:
    """Returns the slugs of tenants by their ids."""
    slug = col(TenantRow.state)["slug"].astext
    rows = await context.rows(select(col(TenantRow.id), slug.label("slug")).where(col(TenantRow.id).in_(tenants)))
    return {row.id: row.slug for row in rows}


async def _columns(context: ServiceContext, run: Run, resource: str) -> Mapping[str, ResourceColumn]:
    """Returns the columns of a resource, with the labels of the run's bundle."""
    published = await load_state(context, BUNDLES, run.bundle_hash)
    found = () if published is None else published.content.resources
    return {column.name: column for each in found if each.name == resource for column in each.columns}


async def _plain(context: ServiceContext, columns: Mapping[str, ResourceColumn], fields: Fields) -> Plain:
    """Returns fields as an approver sees them: personal values are opened, untrusted texts are cut."""
    found: Plain = {}
    for name, value in fields.items():
        plain = orjson.loads(await context.open(value)) if isinstance(value, Personal) else value
        found[name] = approvals.shown(columns.get(name.removeprefix("where-"), _UNKNOWN), plain)
    return found


async def _decide(
    context: ServiceContext, principal: Caller, approval: str, verb: str, decision: Decision
) -> CallApprovalView:
    run = await _run_of(context, approval)
    slug = (await _slugs(context, [run.tenant_id])).get(run.tenant_id, run.tenant_id)

    def decide(unit: UnitOfWork, at: DecisionContext) -> CallApprovalView:
        unit.record(RUNS, run.id, decision(runs.existing(unit.get(RUNS, run.id), run.id), at.now))
        decided = runs.existing(unit.get(RUNS, run.id), run.id)
        return CallApprovalView.of(decided, slug, approvals.find(decided, approval), at.now)

    return await context.decide(
        principal.origin,
        decide,
        writes=[RUNS.key(run.id)],
        verb=verb,
        target=approval,
        tenant_id=run.tenant_id,
        idempotency=principal.idempotency,
        response_type=CallApprovalView,
    )
