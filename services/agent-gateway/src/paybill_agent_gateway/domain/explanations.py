"""Explanations: which grant and which rule decide about a call that is made up."""

from collections.abc import Mapping
from dataclasses import dataclass

from paybill_contracts.agent_bundles import (
    ChooseStep,
    ComputeStep,
    CreateStep,
    DeleteStep,
    Grant,
    Scalar,
    Step,
    UpdateStep,
    Verb,
)

from paybill_agent_gateway.domain.refusals import InvalidInputError, NotPermittedError, WorkflowNotFoundError
from paybill_agent_gateway.domain.steps import VERBS
from paybill_agent_gateway.domain.turns import CHOICE
from paybill_agent_gateway.domain.values import checked, constant_slots, slots_of
from paybill_agent_gateway.domain.workflows import CompiledBundle, CompiledWorkflow, named

NO_GRANT_NEEDED = "no_grant_needed"
"""Rule of a step that is about no row."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision about a step on one row. code: of the refusal; None when the grants permit it.

    rule: of the grants. needs_approval: by the step's own rule; a value from a model may need one, too. nearest: on a
    denial, the permits of the role for this verb and resource.
    """

    code: str | None
    rule: str
    grants: tuple[str, ...] = ()
    verb: Verb | None = None
    resource: str | None = None
    needs_approval: bool = False
    nearest: tuple[Grant, ...] = ()


def explain(bundle: CompiledBundle, role: str, workflow: str, step: str, given: Mapping[str, object]) -> Explanation:
    """Returns the decision of the grants about a step.

    given: columns of the row, as it will be after a create or an update, else as it is; the others are NULL. Raises
    WorkflowNotFoundError, and InvalidInputError as for a call: each slot needs a value of its type and its constant
    bounds; a bound that a field of a run gives is not checked.
    """
    compiled = bundle.workflows.get(workflow)
    found = compiled.steps.get(step) if compiled is not None else None
    if compiled is None or found is None or compiled.workflow.role != role:
        known = sorted(
            f"{each.workflow.name}.{name}"
            for each in bundle.workflows.values()
            if each.workflow.role == role
            for name in each.steps
        )
        raise WorkflowNotFoundError(
            f"the role {role} has no step {step} of a workflow {workflow} in this bundle; "
            f"its steps: {', '.join(known) or 'none'}"
        )
    if isinstance(found, ChooseStep):
        options = [each.name for each in found.options]
        if set(given) != {CHOICE} or given[CHOICE] not in options:
            raise InvalidInputError(f"{found.name} needs the argument {CHOICE}, one of: {', '.join(options)}")
        return Explanation(None, NO_GRANT_NEEDED)
    slots = {name: value for name, value in given.items() if name in slots_of(found)}
    constant_slots(found, given if isinstance(found, ComputeStep) else slots)
    if isinstance(found, ComputeStep):
        return Explanation(None, NO_GRANT_NEEDED)
    columns = bundle.columns[found.resource]
    unknown = sorted(given.keys() - columns.keys())
    if unknown:
        raise InvalidInputError(f"{found.resource} has no column {unknown[0][:63]!a}; it has: {', '.join(columns)}")
    row: dict[str, Scalar | None] = dict.fromkeys(columns)
    row |= {name: checked(columns[name].type, value, f"the column {name}") for name, value in given.items()}
    verb = VERBS[type(found)]
    decision = bundle.grants.decide(role, verb, found.resource, named(found), row)
    return Explanation(
        code=None if decision.allowed else NotPermittedError.code,
        rule=decision.rule,
        grants=decision.grants,
        verb=verb,
        resource=found.resource,
        needs_approval=_needs_approval(compiled, found, row),
        nearest=() if decision.allowed else bundle.permits(role, verb, found.resource),
    )


def _needs_approval(workflow: CompiledWorkflow, step: Step, row: Mapping[str, Scalar | None]) -> bool:
    """Returns whether the step's own rule needs an approval; an error in its condition does."""
    if not isinstance(step, CreateStep | UpdateStep | DeleteStep) or step.approval is None:
        return False
    when = workflow.whens.get(step.name)
    return when is None or when({**dict.fromkeys(workflow.fields), **row}) is not False
