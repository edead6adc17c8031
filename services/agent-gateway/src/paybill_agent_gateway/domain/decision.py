"""The decision about one call, in a fixed order. Each line may refuse, and an error refuses.

Order: caller; freeze, tenant's state and entitlement; schema; repeated call; state and number of the call; grants;
trust; budget; approval. What passes all of them is recorded: a read with its rows, a write as an intent.
"""

from dataclasses import dataclass, replace
from datetime import timedelta

from paybill_contracts.agent_access import AgentConnection
from paybill_contracts.agent_runs import BudgetReserved, RunEnd, RunStarted
from paybill_contracts.errors import DomainError

from paybill_agent_gateway.domain import agents, approvals, budgets, freezes, runs, steps, tenants, turns, values
from paybill_agent_gateway.domain.answers import Answer, PlainFields, RefusalError, refusal
from paybill_agent_gateway.domain.calls import Call, CallCaller, Start, Take, digest_if_canonical, digest_of
from paybill_agent_gateway.domain.records import Records
from paybill_agent_gateway.domain.refusals import (
    ApprovalDeniedError,
    ApprovalExpiredError,
    ApprovalRequiredError,
    InputsDifferError,
    NoBundleError,
    OutcomePendingError,
    OutOfBudgetError,
    RunEndedError,
    SeqReusedError,
    StepNotAllowedError,
    WorkflowNotFoundError,
    WrongSeqError,
    by_database,
)
from paybill_agent_gateway.domain.runs import Run, RunEvent
from paybill_agent_gateway.domain.scenes import (
    BlueprintNeed,
    DayNeed,
    Found,
    MissingError,
    RunNeed,
    Scene,
)
from paybill_agent_gateway.domain.workflows import CompiledBundle

MAX_SEQ = 2**31
Outcome = Answer | RefusalError | steps.Intended


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about a call: facts of the run and of the day, and what follows when they are committed."""

    outcome: Outcome
    events: tuple[RunEvent, ...] = ()
    reserved: BudgetReserved | None = None


def decide(scene: Scene, call: Call, found: Found) -> Verdict:
    """Decides about a call. Raises MissingError, and refusals of calls about no run of the caller."""
    caller = call.caller
    if caller.agent_id is not None:
        agents.require_active(scene.agents.get(caller.agent_id), caller.tenant_id, caller.role or "", scene.now)
    if isinstance(call.request, Start):
        return _start(scene, caller, call.request, found)
    return _take(scene, caller, call.request, found)


def _start(scene: Scene, caller: CallCaller, request: Start, found: Found) -> Verdict:
    freezes.require_none(scene.freezes, caller.tenant_id, caller.agent_id, request.workflow)
    tenants.require_active(scene.tenant, caller.tenant_id)
    bundle, endpoint = _in_force(scene, found)
    compiled = bundle.workflows.get(request.workflow)
    if compiled is None or caller.role not in {None, compiled.workflow.role}:
        raise WorkflowNotFoundError("there is no such workflow for this role; list the tools to see which there are")
    workflow = compiled.workflow
    inputs = values.inputs_of(workflow, bundle.columns, request.inputs)
    run_id = runs.run_id(caller.tenant_id, workflow, inputs, [caller.subject, request.request_id])
    if scene.run_id != run_id:
        raise MissingError(RunNeed(run_id))
    run = scene.run
    if run is not None and not (workflow.once and runs.can_start_again(run)):
        return _resume(scene, caller, run, inputs, found)
    runs.require_attempt(run, scene.now)
    day_id = budgets.day_id(caller.tenant_id, scene.now)
    earlier = budgets.earlier_days(caller.tenant_id, scene.now) if tenants.is_metered(scene.tenant) else ()
    if (scene.day_id, tuple(scene.earlier)) != (day_id, earlier):
        raise MissingError(DayNeed(day_id, earlier))
    used, limit = budgets.actions_taken((scene.day, *scene.earlier.values())), workflow.limits.run
    tenants.require_active(scene.tenant, caller.tenant_id, used=used, requested=limit.calls)
    first_seq = runs.first_seq(run)
    reserved = budgets.reserve(scene.day, workflow, caller.tenant_id, caller.agent_id, run_id, first_seq, scene.now)
    of_inputs = {each.name: bundle.columns[each.resource][each.column] for each in workflow.inputs}
    started = RunStarted(
        tenant_id=caller.tenant_id,
        run_id=run_id,
        bundle_hash=bundle.hash,
        agent_id=caller.agent_id,
        role=workflow.role,
        workflow=workflow.name,
        blueprint=bundle.bundle.blueprint.name,
        inputs=found.sealed(caller.tenant_id, of_inputs, inputs),
        has_trusted_inputs=caller.agent_id is None,
        first_seq=first_seq,
        digest=digest_of(run_id, request),
        reserved=limit,
        started_by=caller.subject,
        started_at=scene.now,
        expires_at=scene.now + timedelta(minutes=workflow.limits.minutes),
    )
    records = Records(scene.now, runs.evolve(run, started), bundle, found, started.digest, bundle.hash, [started])
    records.agent_id = caller.agent_id
    intended = steps.automatic(steps.Turn(scene, found, records, bundle, endpoint, caller.subject))
    return Verdict(intended or records.answer(bundle, whole_run=True), tuple(records.events), reserved)


def _resume(scene: Scene, caller: CallCaller, run: Run, inputs: PlainFields, found: Found) -> Verdict:
    """Returns a run that exists already, after its automatic steps that are left. Raises InputsDifferError."""
    _require_own(run, caller)
    if found.opened(run.inputs) != inputs:
        raise InputsDifferError(f"the run {run.id} has this key and other inputs; start it with the same inputs")
    bundle, endpoint = _in_force(scene, found)
    own = found.bundle(run.bundle_hash).labelled(bundle, run.workflow)
    records = Records(scene.now, run, own, found, run.digest, bundle.hash, agent_id=caller.agent_id)
    intended = None
    if run.ended is None and run.intent is None and run.approval is None:
        try:
            intended = steps.automatic(steps.Turn(scene, found, records, bundle, endpoint, caller.subject))
        except DomainError as error:
            records.refused(error, str(error))
            return Verdict(_refused(records, error), tuple(records.events))
    return Verdict(intended or records.answer(bundle, whole_run=True), tuple(records.events))


def _take(scene: Scene, caller: CallCaller, request: Take, found: Found) -> Verdict:
    """Decides about a step. A refusal of a call of the caller's own run is a fact of the run, and costs a call."""
    if not runs.is_run_id(request.run):
        runs.existing(None, request.run)
    if scene.run_id != request.run:
        raise MissingError(RunNeed(request.run))
    run = _require_own(runs.existing(scene.run, request.run), caller)
    records = Records(scene.now, run, found.bundle(run.bundle_hash), found, "", None)
    records.agent_id, records.called = caller.agent_id, request.step
    try:
        outcome = _ordered(scene, caller, request, records)
    except OutcomePendingError as error:
        return Verdict(_refused(records, error))
    except DomainError as error:
        if run.ended is not None or (run.intent is not None and not records.has_calls):
            raise
        if isinstance(error, ApprovalRequiredError):  # the request is the fact; its repetition adds none
            return Verdict(_refused(records, error), tuple(records.events))
        if isinstance(error, ApprovalExpiredError):
            records.expire("the time for it is over")
        records.digest = records.digest or digest_if_canonical(run.id, request) or ""
        records.refused(error, str(error))
        return Verdict(_refused(records, _of_end(records.run, error)), tuple(records.events))
    return Verdict(outcome, tuple(records.events))


def _ordered(scene: Scene, caller: CallCaller, request: Take, records: Records) -> Outcome:
    run, found = records.run, records.found
    freezes.require_none(scene.freezes, run.tenant_id, caller.agent_id, run.workflow)
    tenants.require_active(scene.tenant, run.tenant_id)
    bundle, endpoint = _in_force(scene, found)
    records.bundle, records.grants_hash = records.bundle.labelled(bundle, run.workflow), bundle.hash
    turn = steps.Turn(scene, found, records, bundle, endpoint, caller.subject)
    values.require_plain(request.values)
    if request.workflow not in {None, run.workflow}:
        raise StepNotAllowedError(f"this run is one of {run.workflow}; use the tool of its next step")
    if not 0 < request.seq < MAX_SEQ:
        raise WrongSeqError(f"the number of the next call is {run.seq}")
    records.digest = digest_of(run.id, request)
    if any(each.digest == records.digest for each in run.done):
        is_last = run.done[-1].digest == records.digest and run.intent is None and run.approval is None
        intended = steps.automatic(turn) if is_last and run.ended is None else None
        return intended or records.answer(bundle, whole_run=False)
    failed = next((each for each in run.failed if each.digest == records.digest), None)
    if failed is not None:
        return _refused(records, by_database(failed.code))
    if run.ended is not None:
        raise RunEndedError(f"the run has ended: {run.ended}")
    is_intended = run.intent is not None and run.intent.digest == records.digest
    if not is_intended and request.seq < run.seq + (run.intent is not None):
        raise SeqReusedError(f"another call has used the number {request.seq}; the next one is {run.seq}")
    if run.intent is not None:
        raise OutcomePendingError("the outcome of the last write is not known yet; send the same call again later")
    if request.seq != run.seq:
        raise WrongSeqError(f"the number of the next call is {run.seq}, not {request.seq}")
    step = turns.next_step(records.workflow, run.done)
    if step is None or step.name != request.step:
        expected = step.name if step is not None else "none"
        raise StepNotAllowedError(f"the next step of this run is {expected}")
    if records.end_on_time():
        return _refused(records, RunEndedError("the time of this run is over"))
    intended = steps.execute(turn, step, dict(request.values)) or steps.automatic(turn)
    return intended or records.answer(bundle, whole_run=False)


def _in_force(scene: Scene, found: Found) -> tuple[CompiledBundle, AgentConnection]:
    """Returns the bundle in force and the endpoint of the tenant. Raises NoBundleError, MissingError."""
    tenant = scene.tenant
    endpoint = tenants.require_endpoint(tenant)
    if scene.blueprint != endpoint.blueprint:
        raise MissingError(BlueprintNeed(endpoint.blueprint))
    if scene.in_force is None:
        raise NoBundleError(f"no bundle is in force for {endpoint.blueprint}; run: paybill agent publish")
    return found.bundle(scene.in_force.bundle_hash), endpoint


def _require_own(run: Run, caller: CallCaller) -> Run:
    """Returns the run of the caller's tenant and role. Raises RunNotFoundError, as for a run that does not exist."""
    is_own = run.tenant_id == caller.tenant_id and caller.role in {None, run.role}
    return runs.existing(run if is_own else None, run.id)


def _of_end(run: Run, error: DomainError) -> DomainError:
    """Returns the refusal as its caller gets it: one that ends the run says so, and advises no repetition."""
    if run.ended is RunEnd.OUT_OF_BUDGET and not isinstance(error, OutOfBudgetError):
        text = f"the run has used its {run.limit.calls} calls, and ends; the last one was refused with {error.code}"
        return OutOfBudgetError(text)
    if run.ended is RunEnd.DENIED:
        return ApprovalDeniedError(f"a person has denied calls of this run {run.denials} times; the run ends")
    return error


def _refused(records: Records, error: DomainError) -> RefusalError:
    """Returns the refusal with the steps that are allowed next; without choices while the labels are unknown."""
    run = records.run
    waits = isinstance(error, ApprovalRequiredError) and run.approval is not None
    pending = approvals.pending(run.approval) if waits and run.approval is not None else None
    next_steps = turns.allowed_next(records.so_far)
    if records.grants_hash is None:
        next_steps = tuple(replace(each, choices=()) for each in next_steps)
    return refusal(error, next_steps, pending, run.id, run.seq)
