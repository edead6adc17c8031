"""Routes about runs: started and continued through `act`, listed, and shown with their actions."""

from enum import StrEnum
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Path, Query, Request
from paybill_contracts.agent_bundles import Amounts
from paybill_contracts.agent_runs import Fields, RunEnd, RunId
from paybill_contracts.agents import AgentId
from paybill_contracts.errors import DomainError
from paybill_contracts.values import Digest, Key, Slug, TenantId, Timestamp
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.caller import Caller, WrongTenantError
from paybill_runtime.http.listing import Limit, load_events, load_page, load_state
from paybill_runtime.http.problems import Problem
from paybill_runtime.http.router import Router
from paybill_runtime.http.strict_json import JsonError, read_json
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlmodel import col

from paybill_agent_gateway.act import Gate, act, bundle_of
from paybill_agent_gateway.api.actions import ActionView, actions_of
from paybill_agent_gateway.api.answers import AnswerView
from paybill_agent_gateway.api.approval_views import CallApprovalView
from paybill_agent_gateway.api.callers import Actor, RunViewer, Viewer, call_caller
from paybill_agent_gateway.api.tenants import tenant_named
from paybill_agent_gateway.domain import runs
from paybill_agent_gateway.domain.calls import Call, Start, Take
from paybill_agent_gateway.domain.disclosure import Disclosure, without_personal
from paybill_agent_gateway.domain.refusals import RunNotFoundError
from paybill_agent_gateway.domain.runs import Run
from paybill_agent_gateway.domain.tenants import TenantAccess
from paybill_agent_gateway.domain.turns import progress
from paybill_agent_gateway.tables import IN_FORCE, RUNS, TENANTS, RunRow
from paybill_agent_gateway.tools import MAX_CALL_BYTES

MAX_EVENTS = 2000

Id = Annotated[RunId, Path(description="Id of the run.")]
Position = Annotated[str, StringConstraints(max_length=100, pattern=r"^[0-9A-Za-z:.+_ -]*$")]
Arguments = Annotated[dict[str, Any], Field(description="By name; each is a string, an integer or a boolean.")]


async def strict_body(request: Request) -> None:
    """Refuses a body that another program could read in another way, as the MCP endpoint does."""
    body = await request.body()
    if len(body) > MAX_CALL_BYTES:
        raise Problem(413, "too_large", f"a call may have {MAX_CALL_BYTES} bytes at most")
    try:
        read_json(body)
    except JsonError as error:
        raise Problem(400, error.code, f"the body is refused: {error}") from None


Strict = Annotated[None, Depends(strict_body)]
"""Of a parameter after the caller, which is checked first."""


class RunStatus(StrEnum):
    """Status of a run. OPEN selects all that have not ended.

    WAITING: for the next call. APPROVAL: a call waits for a person. PENDING: the outcome of a write is not recorded.
    """

    OPEN = "open"
    WAITING = "waiting"
    APPROVAL = "approval"
    PENDING = "pending"
    ENDED = "ended"

    @classmethod
    def of(cls, run: Run) -> Self:
        """Returns the status of `run`."""
        if run.ended is not None:
            return cls.ENDED
        if run.intent is not None:
            return cls.PENDING
        return cls.APPROVAL if run.approval is not None and run.approval.is_open else cls.WAITING


class StartBody(BaseModel):
    """Request for a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Annotated[
        TenantId | Slug | None,
        Field(description="The tenant, by id or slug; required unless the key belongs to one, as an agent's does."),
    ] = None
    inputs: Arguments = Field(default_factory=dict)


class StepBody(BaseModel):
    """A call of a step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: Annotated[int, Field(ge=1, le=2**31 - 1, strict=True, description="As the last answer names it.")]
    values: Arguments = Field(default_factory=dict)


class RunSummary(BaseModel):
    """Common part of the views of a run."""

    id: RunId
    tenant_id: TenantId
    agent_id: AgentId | None
    role: str
    workflow: str
    status: RunStatus
    ended: Annotated[RunEnd | None, Field(description="Reason of the end.")]
    seq: Annotated[int, Field(description="Number of the next call.")]
    bundle_hash: Digest
    started_by: str
    has_trusted_inputs: Annotated[bool, Field(description="A person or a program gave the inputs.")]
    inputs: Fields
    used: Amounts
    limit: Amounts
    started_at: Timestamp
    expires_at: Timestamp
    ended_at: Timestamp | None

    @staticmethod
    def fields(run: Run) -> dict[str, Any]:
        """Returns the fields of this part."""
        return {
            "id": run.id,
            "tenant_id": run.tenant_id,
            "agent_id": run.agent_id,
            "role": run.role,
            "workflow": run.workflow,
            "status": RunStatus.of(run),
            "ended": run.ended,
            "seq": run.seq,
            "bundle_hash": run.bundle_hash,
            "started_by": run.started_by,
            "has_trusted_inputs": run.has_trusted_inputs,
            "inputs": run.inputs,
            "used": run.used,
            "limit": run.limit,
            "started_at": run.started_at,
            "expires_at": run.end,
            "ended_at": run.ended_at,
        }


class RunView(RunSummary):
    """A run. actions: reads and writes done in it."""

    actions: int


class RunDetails(RunSummary):
    """A run with its actions and refusals as they were recorded, and its approvals."""

    actions: list[ActionView]
    approvals: list[CallApprovalView]


class RunPage(BaseModel):
    """Runs, the newest first."""

    runs: list[RunView]
    next: Annotated[str | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext, gate: Gate) -> APIRouter:
    """Returns the routes of runs."""
    routes = Router(tags=["runs"])

    @routes.post("/v1/workflows/{name}/runs")
    async def start(
        name: Annotated[Key, Path(description="Name of the workflow.")], body: StartBody, principal: Actor, _: Strict
    ) -> AnswerView:
        """Starts a run of a workflow, or returns the one that its business key has already.

        The steps that need nothing from the caller are executed. Inputs from a person or a program are trusted, those
        from an agent are not. Refusals name the steps that are allowed `next` (docs/agents.md lists all codes).
        """
        tenant_id = principal.tenant_id
        if body.tenant is not None:
            tenant_id = await tenant_named(context, body.tenant, principal)
        if tenant_id is None:
            raise Problem(422, "invalid_request", "tenant: name the tenant; this API key belongs to none")
        await _require_tenant(principal, tenant_id, name)
        request_id = principal.idempotency.key if principal.idempotency is not None else principal.origin.correlation
        call = Call(call_caller(principal, tenant_id), Start(name, body.inputs, request_id), principal.origin)
        return AnswerView.model_validate((await act(gate, call)).document())

    @routes.post("/v1/runs/{run}/steps/{step}")
    async def take(
        run: Id,
        step: Annotated[Key, Path(description="Name of the step.")],
        body: StepBody,
        principal: Actor,
        _: Strict,
    ) -> AnswerView:
        """Executes the next step of a run, and those after it that need nothing from the caller.

        The run and `seq` are its idempotency key: the same call again gets the same answer, and other arguments under
        a used `seq` are refused with `seq_reused`. A call that waits for an approval is refused with
        `approval_required`; repeat it, unchanged, after the decision.
        """
        tenant_id = principal.tenant_id or (await _found(run, principal)).tenant_id
        call = Call(call_caller(principal, tenant_id), Take(run, body.seq, step, body.values), principal.origin)
        return AnswerView.model_validate((await act(gate, call)).document())

    @routes.get("/v1/runs")
    async def show_all(
        _: Viewer,
        tenant: Annotated[TenantId | None, Query(description="Only runs of this tenant.")] = None,
        agent: Annotated[AgentId | None, Query(description="Only runs that this agent started.")] = None,
        workflow: Annotated[Key | None, Query(description="Only runs of this workflow.")] = None,
        status: Annotated[RunStatus | None, Query(description="Only runs with this status.")] = None,
        after: Annotated[Position | None, Query(description="`next` of the previous page.")] = None,
        limit: Limit = 50,
    ) -> RunPage:
        """Lists runs, in pages; the one that was started last is first."""
        conditions = [col(RunRow.status) != RunStatus.ENDED] if status is RunStatus.OPEN else []
        page, next_ = await load_page(
            context,
            RUNS,
            after,
            limit,
            *conditions,
            order_by="-started",
            tenant_id=tenant,
            agent_id=agent,
            workflow=workflow,
            status=None if status is RunStatus.OPEN else status,
        )
        return RunPage(runs=[RunView(**RunView.fields(each), actions=each.actions) for each in page], next=next_)

    @routes.get("/v1/runs/{run}")
    async def show(run: Id, principal: RunViewer) -> RunDetails:
        """Shows a run with its actions, refusals and approvals. An agent sees the runs of its own tenant and role.

        Refused with `run_not_found`, also for the run of another tenant, and then recorded.
        """
        found = await _found(run, principal)
        access = await load_state(context, TENANTS, found.tenant_id)
        events = await load_events(context, f"{RUNS.kind}/{run}", MAX_EVENTS)
        now, slug = context.now(), access.slug if access is not None else found.tenant_id
        approvals = [*found.earlier_approvals, *([found.approval] if found.approval is not None else [])]
        actions, inputs = actions_of(events), found.inputs
        if principal.tenant_id is not None:
            actions, inputs = await _disclosed(gate, found, access, actions)
        return RunDetails(
            **(RunDetails.fields(found) | {"inputs": inputs}),
            actions=actions,
            approvals=[CallApprovalView.of(found, slug, each, now) for each in approvals],
        )

    async def _found(run: str, principal: Caller) -> Run:
        """Returns a run of the caller. Raises RunNotFoundError, which is recorded: an id is no secret, and no right."""
        found = await load_state(context, RUNS, run)
        if found is not None and (principal.tenant_id is None or _is_own(found, principal)):
            return found

        try:
            return runs.existing(None, run)
        except RunNotFoundError as error:
            raise await _refused(principal, run, error, "show_run") from None

    async def _require_tenant(principal: Caller, tenant_id: str, workflow: str) -> None:
        """Raises WrongTenantError for an agent of another tenant, and records it."""
        try:
            principal.require_tenant(tenant_id)
        except WrongTenantError as error:
            raise await _refused(principal, workflow, error) from None

    async def _refused(principal: Caller, target: str, error: DomainError, verb: str = "act") -> DomainError:
        """Records and counts a refusal outside of `act`, and returns it, or that of a bound."""
        caller = call_caller(principal, principal.tenant_id or "")
        return await gate.refused.refuse(context, caller, principal.origin, target, error, verb)

    return routes


async def _disclosed(
    gate: Gate, run: Run, access: TenantAccess | None, actions: list[ActionView]
) -> tuple[list[ActionView], Fields]:
    """Returns the actions and the inputs of a run as its agents may read them: under the bundle in force."""
    agents = access.agents if access is not None else None
    in_force = await load_state(gate.context, IN_FORCE, agents.blueprint) if agents is not None else None
    if in_force is None:
        return [each.model_copy(update={"arguments": {}}) for each in actions], {}
    so_far = progress(run, await bundle_of(gate, run.bundle_hash), without_personal)
    disclosure = Disclosure(so_far, await bundle_of(gate, in_force.bundle_hash))
    list(disclosure.actions())
    found = [each.model_copy(update={"arguments": disclosure.arguments(each.step, each.arguments)}) for each in actions]
    return found, disclosure.inputs()


def _is_own(run: Run, principal: Caller) -> bool:
    return (run.tenant_id, run.role) == (principal.tenant_id, principal.agent_role)
