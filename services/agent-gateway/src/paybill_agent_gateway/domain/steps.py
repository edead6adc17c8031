"""Execution of one step: grants, trust, budget and approval, in this order. Each may refuse, and an error refuses."""

from dataclasses import dataclass, replace

from paybill_contracts.agent_access import AgentConnection
from paybill_contracts.agent_bundles import (
    AgentResource,
    ChooseStep,
    ComputeStep,
    CreateStep,
    DeleteStep,
    ReadStep,
    Step,
    UpdateStep,
    Verb,
    Write,
)
from paybill_contracts.agent_runs import RunEnd
from paybill_contracts.errors import DomainError
from paybill_definitions.agent_conditions import names

from paybill_agent_gateway.domain import approvals, run_ends, runs, trust, turns, values
from paybill_agent_gateway.domain.answers import PlainFields
from paybill_agent_gateway.domain.approvals import Image, Preview
from paybill_agent_gateway.domain.attempts import Attempt
from paybill_agent_gateway.domain.grants import RowCondition
from paybill_agent_gateway.domain.records import Records
from paybill_agent_gateway.domain.refusals import (
    ApprovalExpiredError,
    ApprovalRequiredError,
    NotPermittedError,
    RowMissingError,
    RowsChangedError,
    TooManyRowsError,
    UntrustedValueError,
)
from paybill_agent_gateway.domain.runs import CallApproval
from paybill_agent_gateway.domain.scenes import (
    AgentNeed,
    ConnectionNeed,
    Found,
    MissingError,
    RowsNeed,
    Scene,
)
from paybill_agent_gateway.domain.workflows import CompiledBundle, RowStep, named

VERBS: dict[type[RowStep], Verb] = {
    ReadStep: Verb.READ,
    CreateStep: Verb.CREATE,
    UpdateStep: Verb.UPDATE,
    DeleteStep: Verb.DELETE,
}


@dataclass(frozen=True, slots=True)
class Intended:
    """A write whose intent is recorded. image: of the rows before it on which the decision relies; None without any."""

    need: RowsNeed
    image: str | None


@dataclass(frozen=True, slots=True)
class Turn:
    """One call about one run. bundle: in force, with the grants; the run's own bundle has its workflow.

    caller: the subject of who calls.
    """

    scene: Scene
    found: Found
    records: Records
    bundle: CompiledBundle
    endpoint: AgentConnection
    caller: str


def automatic(turn: Turn) -> Intended | None:
    """Executes the steps that need nothing from the model, until one needs it, or a write has its intent.

    A run whose next step can never be taken fails: no option of a choice applies, or a cycle has come to its bound.
    A refusal of such a step is none of the call, unless the run has done nothing yet: the caller may take it itself.
    It is a fact of the run, and costs a call. Nothing is executed after the end of the run's time.
    """
    records = turn.records
    while records.run.ended is None and not records.end_on_time():
        step = turns.next_step(records.workflow, records.run.done)
        if step is None:
            records.end(RunEnd.FINISHED)
            return None
        if turns.is_blocked(step, records.so_far):
            records.end(RunEnd.FAILED)
            return None
        if turns.needs_model(step, records.so_far):
            return None
        try:
            intended = execute(turn, step, {}, is_automatic=True)
        except DomainError as error:
            waits = isinstance(error, ApprovalRequiredError)
            if not waits and not records.run.done:
                raise
            if not waits or _needs_preview(step):
                records.called = ""
                records.refused(error, str(error))
            return None
        if intended is not None:
            return intended
    return None


def _needs_preview(step: Step) -> bool:
    """Returns whether the rule of a step about approvals decides on rows that exist, which takes a statement."""
    if not isinstance(step, UpdateStep | DeleteStep):
        return False
    return step.approval is not None and step.approval.when is not None


def execute(turn: Turn, step: Step, given: dict[str, object], *, is_automatic: bool = False) -> Intended | None:
    """Executes a step that needs no write; returns the intent of one that does."""
    records, so_far = turn.records, turn.records.so_far
    records.attempt = None
    turns.require_executions(step, records.run.done)
    if hidden := turns.hidden_names(step, so_far):
        raise NotPermittedError(
            f"a condition of {step.name} names {', '.join(hidden)}, which the bundle in force hides or does not have"
        )
    if isinstance(step, ChooseStep):
        chosen = turns.chosen(step, so_far, given)
        records.done(step.name, {}, (), chosen=chosen, used=records.reserve(0, {}))
        return None
    slots = values.slot_values(step, so_far.known, given)
    if isinstance(step, ComputeStep):
        records.done(step.name, {}, (turns.computed(step, so_far, slots),), used=records.reserve(0, {}))
        return None
    arguments = _arguments(step, so_far, slots)
    attempt = Attempt(records.workflow, step, fact_arguments(step, arguments), turn.bundle)
    records.attempt = attempt
    if turn.bundle.hash != records.run.bundle_hash and attempt.hidden:
        raise NotPermittedError(
            f"{', '.join(attempt.hidden)} of {step.name} come from columns that the bundle in force hides"
        )
    need, grants = _permitted(turn, step, arguments)
    if isinstance(step, ReadStep):
        _read(turn, step, need, arguments, grants)
        return None
    untrusted = trust.untrusted_arguments(step, arguments, so_far.origins)
    reserved = records.reserve(_most_rows(step, need), _sums(turn, step, arguments))
    approval_id, image = _approved(turn, step, need, untrusted, is_automatic=is_automatic)
    turn.found.require_connection(ConnectionNeed(records.run.tenant_id, turn.endpoint.epoch, turn.endpoint))
    records.intended(step, VERBS[type(step)], fact_arguments(step, arguments), grants, reserved, approval_id)
    return Intended(need, image)


def _read(turn: Turn, step: ReadStep, need: RowsNeed, arguments: PlainFields, grants: tuple[str, ...]) -> None:
    records = turn.records
    records.reserve(0, {})
    rows = turn.found.rows(need)
    if step.one and not rows:
        raise RowMissingError(f"{step.name} finds no row of {step.resource} with these values")
    if len(rows) > (1 if step.one else step.limit):
        raise TooManyRowsError(f"{step.name} finds more than one row of {step.resource} with these values")
    used = records.reserve(len(rows), {})
    records.done(step.name, fact_arguments(step, arguments), rows, of=step, verb=Verb.READ, grants=grants, used=used)


def _permitted(turn: Turn, step: RowStep, arguments: PlainFields) -> tuple[RowsNeed, tuple[str, ...]]:
    """Returns the statement of a step and the grants that permit it: those in force now. Raises NotPermittedError."""
    records, verb, columns = turn.records, VERBS[type(step)], named(step)
    grants, role = turn.bundle.grants, records.run.role
    resource = turn.bundle.resources.get(step.resource)
    if resource is None or not columns <= turn.bundle.columns[step.resource].keys():
        raise NotPermittedError(f"the bundle in force has no {step.resource} with the columns of {step.name}")
    if isinstance(step, CreateStep):
        row = dict.fromkeys(turn.bundle.columns[step.resource]) | _row_of(arguments)
        decision = grants.decide(role, verb, step.resource, columns, row)
    else:
        decision = grants.decide_any(role, verb, step.resource, columns)
    if records.attempt is not None:
        records.attempt = replace(records.attempt, grants=decision.grants)
    if not decision.allowed:
        by = f" ({', '.join(decision.grants)})" if decision.grants else ""
        raise NotPermittedError(f"the grants of the role {role} do not permit {step.name}: {decision.rule}{by}")
    condition = grants.row_condition(role, verb, step.resource, columns)
    return _need(turn, step, resource, condition, arguments), decision.grants


def _need(
    turn: Turn, step: RowStep, resource: AgentResource, condition: RowCondition, arguments: PlainFields
) -> RowsNeed:
    run = turn.records.run
    return RowsNeed(
        identity=(run.bundle_hash, run.workflow, step.name, turn.bundle.hash),
        values=tuple(arguments.items()),
        key=(run.id, run.seq, turn.records.digest),
        epoch=turn.endpoint.epoch,
        rows_left=max(0, run.limit.rows - run.used.rows),
        step=step,
        resource=resource,
        condition=condition,
        shown=_shown(turn, step),
        readable=turn.bundle.grants.readable(run.role, step.resource, in_every_row=True),
        endpoint=turn.endpoint,
    )


def _approved(
    turn: Turn, step: Write, need: RowsNeed, untrusted: tuple[str, ...], *, is_automatic: bool
) -> tuple[str | None, str | None]:
    """Returns the approval that the call uses, and the image of the rows on which the decision relies.

    Without an approval, the image is of the rows for which the rule needs none; None when no row was decided about.

    Raises UntrustedValueError, ApprovalRequiredError after a request, and the refusals of an approval that has ended.
    """
    records, rule = turn.records, step.approval
    if rule is None:
        if untrusted:
            names = ", ".join(untrusted)
            raise UntrustedValueError(f"{names} of {step.name} come from the model, and nobody can approve them")
        return None, None
    granted = approvals.require_decided(records.run, records.digest, records.now)
    if granted is not None:
        _require_requester(turn, granted)
    if granted is None and not untrusted and rule.when is not None:
        rows, image = _rows_as_they_will_be(turn, step, need)
        when = records.workflow.whens[step.name]
        defaults = turns.condition_row(records.so_far) | dict.fromkeys(turn.bundle.columns[step.resource])
        if all(when(defaults | row) is False for row in rows):
            return None, image
    if is_automatic:
        raise ApprovalRequiredError(f"{step.name} needs an approval; call it to request one")
    preview = turn.found.preview(need)
    arguments = fact_arguments(step, dict(need.values))
    subject = approvals.subject_hash(records.run, step.name, arguments, preview, turn.bundle.hash)
    if granted is None or granted.granted is None:
        records.require_request()
        reason = "untrusted values: " + ", ".join(untrusted) if untrusted else "the workflow requires it"
        records.requested(step, VERBS[type(step)], arguments, preview, subject, reason, turn.caller)
        raise approvals.required(runs.require_approval(records.run))
    if granted.subject_hash != subject:
        records.expire("the rows or the grants have changed since it was requested")
        raise RowsChangedError("the rows are not those that the approver saw; repeat the call for a new request")
    granted.granted.check(subject, records.now)
    return granted.id, preview.image


def _require_requester(turn: Turn, approval: CallApproval) -> None:
    """Ends an approval that an agent requested which may not act any more. Raises ApprovalExpiredError, MissingError.

    Another caller may repeat the call with the approval; who calls has been checked already.
    """
    agent_id, scene = approvals.requesting_agent(approval), turn.scene
    if agent_id is None or approval.requester == turn.caller:
        return
    if agent_id not in scene.agents:
        raise MissingError(AgentNeed(agent_id))
    requester = scene.agents[agent_id]
    if requester is None or not requester.is_active(scene.now):
        turn.records.expire(run_ends.AGENT_ENDED)
        raise ApprovalExpiredError(f"{run_ends.AGENT_ENDED}; repeat the call to request a new approval")


def _rows_as_they_will_be(turn: Turn, step: Write, need: RowsNeed) -> tuple[list[PlainFields], str | None]:
    """Returns the rows that an approval rule is about, and the image of those that exist."""
    if isinstance(step, CreateStep):
        return [_row_of(dict(need.values))], None
    preview: Preview = turn.found.preview(need)
    return [row for image in preview.rows if (row := _row_after(step, image)) is not None], preview.image


def _row_after(step: Write, image: Image) -> PlainFields | None:
    return image.before if isinstance(step, DeleteStep) else image.after


def _arguments(step: RowStep, so_far: turns.Progress, slots: PlainFields) -> PlainFields:
    """Returns the values of a step by the names of its statement's parameters."""
    found: PlainFields = {}
    if not isinstance(step, CreateStep):
        found |= {f"where.{name}": values.resolve(name, each, so_far.known, slots) for name, each in step.where.items()}
    if isinstance(step, CreateStep | UpdateStep):
        found |= {f"set.{name}": values.resolve(name, each, so_far.known, slots) for name, each in step.set.items()}
    return found


def fact_arguments(step: RowStep, arguments: PlainFields) -> PlainFields:
    """Returns arguments as in facts: by column, and those that choose rows of an update as `where-<column>`."""
    prefix = "where-" if isinstance(step, UpdateStep) else ""
    return {
        f"{prefix}{name}" if kind == "where" else name: value
        for kind, _, name, value in ((*key.partition("."), value) for key, value in arguments.items())
    }


def _row_of(arguments: PlainFields) -> PlainFields:
    return {name.partition(".")[2]: value for name, value in arguments.items() if name.startswith("set.")}


def _most_rows(step: Write, need: RowsNeed) -> int:
    """Returns the rows of all tables that a write may change; a creation that changes others: all that are left."""
    if not isinstance(step, CreateStep):
        return step.limit
    return max(1, need.rows_left) if need.resource.also_changes else 1


def _sums(turn: Turn, step: Write, arguments: PlainFields) -> dict[str, int]:
    """Returns the integers that a write adds up, by `table.column`: those of the run's limits."""
    if isinstance(step, DeleteStep):
        return {}
    count = 1 if isinstance(step, CreateStep) else step.limit
    found: dict[str, int] = {}
    for name in turn.records.run.limit.sums:
        table, _, column = name.partition(".")
        value = arguments.get(f"set.{column}")
        if table == step.resource and isinstance(value, int):
            found[name] = max(0, value) * count
    return found


def _shown(turn: Turn, step: RowStep) -> tuple[str, ...]:
    """Returns the columns of a write that an approver sees in addition to those that the step names.

    They are all that the role may read and those of the approval rule. A column that the run's own bundle hides is
    none of them.
    """
    if isinstance(step, ReadStep) or step.approval is None:
        return ()
    labels = turn.records.bundle.columns[step.resource]
    found = {
        name
        for name in turn.bundle.grants.readable(turn.records.run.role, step.resource)
        if name in labels and not labels[name].hidden
    }
    if step.approval.when is not None:
        found |= {name for name in names(step.approval.when) if "." not in name}
    return tuple(sorted(found))
