"""Route that explains a call: the grant and the rule that decided, or would decide."""

import asyncio
from typing import Annotated, Any, Self

from fastapi import APIRouter
from paybill_contracts.agent_bundles import Verb
from paybill_contracts.agent_runs import (
    ActionDone,
    ActionFailed,
    ActionIntended,
    ActionRefused,
    ActionVoided,
    CallApprovalRequested,
    RunId,
)
from paybill_contracts.agents import FREEZES, AgentId
from paybill_contracts.errors import DomainError, NotFoundError
from paybill_contracts.values import Digest, Key, TenantId, Timestamp
from paybill_definitions.agent_condition_text import condition_text
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.listing import load_events, load_state
from paybill_runtime.http.problems import Problem
from paybill_runtime.http.router import Router
from pydantic import BaseModel, ConfigDict, Field, model_validator

from paybill_agent_gateway.api.callers import Viewer
from paybill_agent_gateway.api.runs import MAX_EVENTS, Strict
from paybill_agent_gateway.domain import agents, freezes, runs, tenants
from paybill_agent_gateway.domain.explanations import explain
from paybill_agent_gateway.domain.refusals import ApprovalRequiredError, NoBundleError
from paybill_agent_gateway.domain.workflows import CompiledBundle
from paybill_agent_gateway.tables import AGENTS, BUNDLES, FREEZE_STATES, IN_FORCE, RUNS, TENANTS

PERMITTED = "permitted"
_DECISIONS = ActionDone | ActionIntended | ActionRefused | ActionFailed | ActionVoided | CallApprovalRequested


class CallNotFoundError(NotFoundError):
    """A run has no call with this number."""

    code = "call_not_found"


class ExplanationBody(BaseModel):
    """A call that happened, by its run and number; or one that is made up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: RunId | None = None
    seq: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None
    tenant: Annotated[TenantId | None, Field(description="Of a made-up call.")] = None
    agent: Annotated[AgentId | None, Field(description="In place of `tenant` and `role`.")] = None
    role: Key | None = None
    workflow: Key | None = None
    step: Key | None = None
    values: Annotated[
        dict[str, Any],
        Field(description="Columns of the row: as it will be for a create and an update, else as it is."),
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_one_call(self) -> Self:
        made_up = (self.tenant, self.agent, self.role, self.workflow, self.step)
        if self.run is not None or self.seq is not None:
            if self.run is None or self.seq is None or any(made_up) or self.values:
                raise ValueError("a call that happened is named by run and seq alone")
        elif self.workflow is None or self.step is None:
            raise ValueError("name run and seq of a call, or workflow and step of one that is made up")
        elif (self.agent is None) == (self.tenant is None or self.role is None):
            raise ValueError("a made-up call needs either agent, or tenant and role")
        return self


class NearestGrant(BaseModel):
    """A permit of the role for the verb and resource that does not permit the call."""

    id: str
    columns: list[str]
    condition: Annotated[str | None, Field(description="As Cedar text; null when every row is permitted.")]


class AttemptView(BaseModel):
    """One of several decisions about the same number of a run."""

    step: str
    allowed: bool
    code: Annotated[str | None, Field(description="Of the refusal.")]
    rule: str
    grants: list[str]
    at: Timestamp


class ExplanationView(BaseModel):
    """The decision about a call."""

    allowed: bool
    code: Annotated[str | None, Field(description="Of the refusal.")]
    rule: Annotated[str, Field(description="The rule that decided.")]
    grants: Annotated[list[str], Field(description="Ids of the permits that apply, or of the forbids that deny.")]
    nearest: Annotated[
        list[NearestGrant], Field(description="On a denial of a made-up call: permits of the role for it.")
    ] = Field(default_factory=list)
    needs_approval: Annotated[bool, Field(description="A person has to approve it, or had to.")]
    tenant_id: TenantId
    run: RunId | None
    seq: int | None
    workflow: str
    step: str
    verb: Verb | None
    resource: str | None
    bundle_hash: Digest
    attempts: Annotated[
        list[AttemptView],
        Field(description="Of a call that happened: every decision about its number, the last one last."),
    ] = Field(default_factory=list)


def router(context: ServiceContext) -> APIRouter:
    """Returns the route of explanations."""
    routes = Router(prefix="/v1/explanations", tags=["explanations"])

    @routes.post("")
    async def explain_call(body: ExplanationBody, _: Viewer, __: Strict) -> ExplanationView:
        """Explains a call: names the grant and the rule that decided about one that happened, or would decide.

        A made-up call is checked in the order of a real one as far as it needs no run: freeze, tenant's state and
        entitlement, schema of the slots, grants. A slot is the value of the column that it sets. It records nothing.
        Refused with `invalid_input`, `run_not_found`, `call_not_found`, `workflow_not_found`, `agent_unknown`,
        `tenant_unknown` and `no_bundle`.
        """
        if body.run is not None and body.seq is not None:
            return await _happened(context, body.run, body.seq)
        return await _made_up(context, body)

    return routes


async def _happened(context: ServiceContext, run_id: str, seq: int) -> ExplanationView:
    """Returns the last decision about a number of a run, as it was recorded, with all attempts."""
    run = runs.existing(await load_state(context, RUNS, run_id), run_id)
    views: list[ExplanationView] = []
    times: list[Timestamp] = []
    for each in await load_events(context, f"{RUNS.kind}/{run_id}", MAX_EVENTS):
        event = each.event
        if not isinstance(event, _DECISIONS) or event.seq != seq:
            continue
        if not views or isinstance(event, ActionRefused | ActionIntended | CallApprovalRequested):
            views.append(
                ExplanationView(
                    allowed=True,
                    code=None,
                    rule=PERMITTED,
                    grants=[],
                    needs_approval=False,
                    tenant_id=run.tenant_id,
                    run=run_id,
                    seq=seq,
                    workflow=run.workflow,
                    step=event.step,
                    verb=None,
                    resource=None,
                    bundle_hash=event.bundle_hash,
                )
            )
            times.append(each.at)
        view = views[-1]
        match event:
            case ActionRefused():
                view.allowed, view.code, view.rule = False, event.code, event.rule
                view.verb, view.resource, view.grants = event.verb, event.resource, list(event.grants)
            case ActionFailed():
                view.allowed, view.code, view.rule = False, event.code, "the tenant's database refused the statement"
            case ActionVoided():
                view.allowed, view.code, view.rule = False, "action_voided", "its outcome was unknown, and claimed"
            case CallApprovalRequested():
                view.allowed, view.code, view.rule = False, ApprovalRequiredError.code, event.reason
                view.verb, view.resource, view.needs_approval = event.verb, event.resource, True
            case ActionIntended():
                view.verb, view.resource, view.grants = event.verb, event.resource, list(event.grants)
                view.needs_approval = event.approval_id is not None
            case ActionDone():
                view.allowed, view.code, view.rule = True, None, PERMITTED
                view.verb, view.resource, view.grants = event.verb, event.resource, list(event.grants)
    if not views:
        raise CallNotFoundError(f"{run_id} has no decided call {seq}; `paybill agent show {run_id}` lists its calls")
    attempts = [
        AttemptView(step=each.step, allowed=each.allowed, code=each.code, rule=each.rule, grants=each.grants, at=at)
        for each, at in zip(views, times, strict=True)
    ]
    return views[-1].model_copy(update={"attempts": attempts})


async def _made_up(context: ServiceContext, body: ExplanationBody) -> ExplanationView:
    tenant_id, role, workflow, step = body.tenant, body.role, body.workflow, body.step
    if body.agent is not None:
        agent = agents.existing(await load_state(context, AGENTS, body.agent), body.agent)
        tenant_id, role = agent.tenant_id, agent.role
    if tenant_id is None or role is None or workflow is None or step is None:
        raise Problem(422, "invalid_request", "a made-up call needs agent, or tenant and role, and workflow and step")
    access = tenants.existing(await load_state(context, TENANTS, tenant_id), tenant_id)
    in_force = None
    if access.agents is not None:
        in_force = await load_state(context, IN_FORCE, access.agents.blueprint)
    published = await load_state(context, BUNDLES, in_force.bundle_hash) if in_force is not None else None
    if published is None:
        raise NoBundleError(f"no bundle is in force for the agents of {access.slug}; run: paybill agent publish")
    bundle = await asyncio.to_thread(CompiledBundle.of, published.content_hash, published.content)
    found = explain(bundle, role, workflow, step, body.values)
    view = ExplanationView(
        allowed=found.code is None,
        code=found.code,
        rule=found.rule,
        grants=list(found.grants),
        nearest=[
            NearestGrant(
                id=each.id,
                columns=list(each.columns.get(found.resource or "", ())),
                condition=condition_text(each.condition) if each.condition is not None else None,
            )
            for each in found.nearest
        ],
        needs_approval=found.needs_approval,
        tenant_id=tenant_id,
        run=None,
        seq=None,
        workflow=workflow,
        step=step,
        verb=found.verb,
        resource=found.resource,
        bundle_hash=published.content_hash,
    )
    try:
        frozen = await load_state(context, FREEZE_STATES, FREEZES)
        freezes.require_none(frozen, tenant_id, body.agent, workflow)
        tenants.require_active(access, tenant_id)
    except DomainError as error:
        return view.model_copy(update={"allowed": False, "code": error.code, "rule": str(error), "grants": []})
    return view
