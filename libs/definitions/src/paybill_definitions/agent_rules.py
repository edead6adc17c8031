"""Rules of a bundle in canonical form; the service repeats them, whoever sends it. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from paybill_contracts.agent_bundles import (
    MAX_BUNDLE_BYTES,
    AgentResource,
    Amounts,
    Bundle,
    ChooseStep,
    ComputeStep,
    CreateStep,
    DeleteStep,
    FixedValue,
    Grant,
    ReadStep,
    Slot,
    Step,
    UpdateStep,
    Workflow,
)
from paybill_contracts.event import canonical

from paybill_definitions.agent_conditions import GROUPS
from paybill_definitions.agent_conditions import errors as condition_errors
from paybill_definitions.agent_fields import Fields
from paybill_definitions.agent_flow import errors as flow_errors
from paybill_definitions.agent_flow import least
from paybill_definitions.agent_steps import StepRules
from paybill_definitions.cedar_text import MAX_POLICIES
from paybill_definitions.diagnostics import PartDiagnostic
from paybill_definitions.yaml_lines import Path

MAX_WORKFLOWS = 100


def normalised(bundle: Bundle) -> Bundle:
    """Returns the bundle in its one order: resources, grants, workflows and all names sorted, steps as written."""
    return bundle.model_copy(
        update={
            "resources": tuple(
                each.model_copy(update={"also_changes": tuple(sorted(set(each.also_changes)))})
                for each in sorted(bundle.resources, key=lambda resource: resource.name)
            ),
            "grants": tuple(_normalised_grant(each) for each in sorted(bundle.grants, key=lambda grant: grant.id)),
            "workflows": tuple(
                each.model_copy(update={"inputs": tuple(sorted(each.inputs, key=lambda input_: input_.name))})
                for each in sorted(bundle.workflows, key=lambda workflow: workflow.name)
            ),
        }
    )


def _normalised_grant(grant: Grant) -> Grant:
    return grant.model_copy(
        update={
            "verbs": tuple(sorted(set(grant.verbs))),
            "resources": tuple(sorted(set(grant.resources))),
            "columns": {name: tuple(sorted(set(columns))) for name, columns in grant.columns.items()},
        }
    )


def errors(bundle: Bundle) -> Iterator[PartDiagnostic]:
    """Yields every error. A path is that of the files: ("workflows", "refund", "steps", "propose", "set", "amount")."""
    yield from _repeated("resources", [each.name for each in bundle.resources])
    yield from _repeated("grants", [each.id for each in bundle.grants])
    yield from _repeated("workflows", [each.name for each in bundle.workflows])
    if len(bundle.grants) > MAX_POLICIES or len(bundle.workflows) > MAX_WORKFLOWS:
        yield PartDiagnostic((), f"a bundle has {MAX_POLICIES} grants and {MAX_WORKFLOWS} workflows at most")
        return
    yield from _resource_keys(bundle.resources)
    faults = [each for grant in bundle.grants for each in _grant(grant, bundle.resources)]
    yield from faults
    if not bundle.workflows:
        yield PartDiagnostic((), "a bundle has at least one workflow: add a file such as refund.yaml")
    if not faults:
        for workflow in bundle.workflows:
            yield from workflow_errors(workflow, bundle.resources, bundle.grants)
    size = len(canonical(bundle.model_dump(mode="json")))
    if size > MAX_BUNDLE_BYTES:
        yield PartDiagnostic((), f"the bundle has {size} bytes in canonical form, of {MAX_BUNDLE_BYTES}; split it")


def _repeated(part: str, names: Iterable[str]) -> Iterator[PartDiagnostic]:
    for name, count in Counter(names).items():
        if count > 1:
            yield PartDiagnostic((part, name), f"{name} is defined {count} times")


def _resource_keys(resources: Iterable[AgentResource]) -> Iterator[PartDiagnostic]:
    for resource in resources:
        if not resource.columns or resource.columns[0].hidden or resource.columns[0].nullable:
            yield PartDiagnostic(("resources", resource.name), "its first column is the key: never NULL, never hidden")


def _grant(grant: Grant, resources: Iterable[AgentResource]) -> Iterator[PartDiagnostic]:
    known = {each.name: each for each in resources}
    path = ("grants", grant.id)
    if not grant.verbs or not grant.resources:
        yield PartDiagnostic(path, "a grant is about at least one action and one resource")
    for name in grant.resources:
        if name not in known:
            yield PartDiagnostic(path, f"there is no resource {name}")
            continue
        columns = {column.name: column for column in known[name].columns}
        for column in grant.columns.get(name, ()):
            if column not in columns or columns[column].hidden:
                yield PartDiagnostic(path, f"{name} has no column {column} that a grant may name")
        if grant.condition is not None:
            for column, reason in condition_errors(grant.condition, columns):
                yield PartDiagnostic((*path, "condition", column), f"{name}: {reason}")
    expected = set(grant.resources) if grant.effect == "permit" else set()
    if set(grant.columns) != expected:
        yield PartDiagnostic(path, "a permit has columns for each of its resources, a forbid has none")


def workflow_errors(
    workflow: Workflow,
    resources: Sequence[AgentResource],
    grants: Sequence[Grant] | None,
    *,
    is_complete: bool = True,
    unread: Collection[Path] = (),
) -> Iterator[PartDiagnostic]:
    """Yields every error of one workflow. grants: None when they are unknown.

    is_complete: without it, steps of the workflow or labels of the resources are missing, and only the rules that do
    not depend on them are checked. unread: paths of parts of the workflow that have errors already.
    """
    for each in _workflow(workflow, resources, grants, frozenset(unread), is_complete=is_complete):
        yield PartDiagnostic(("workflows", workflow.name, *each.path), each.reason)


def _workflow(
    workflow: Workflow,
    resources: Sequence[AgentResource],
    grants: Sequence[Grant] | None,
    unread: frozenset[Path],
    *,
    is_complete: bool,
) -> Iterator[PartDiagnostic]:
    order = list(flow_errors(workflow)) if is_complete else []
    fields = Fields.of(workflow, resources)
    yield from order
    yield from _inputs(workflow, fields)
    is_ordered = is_complete and not order
    yield from StepRules(workflow, resources, grants, is_complete=is_ordered, unread=unread).errors()
    yield from _once(workflow, unread)
    if ("limits",) not in unread:
        faults = [each for each in _limits(workflow, fields) if not _is_unread(each, unread)]
        yield from faults
        if is_ordered and not faults:
            yield from _shortest(workflow)


def _is_unread(fault: PartDiagnostic, unread: frozenset[Path]) -> bool:
    """Returns whether an error is about a limit that has another one: a day follows from every limit of a run."""
    is_day = fault.path[1] in {"agent_day", "tenant_day"}
    return fault.path[:2] in unread or (is_day and any(each[0] == "limits" for each in unread))


def _inputs(workflow: Workflow, fields: Fields) -> Iterator[PartDiagnostic]:
    yield from _repeated("input", [each.name for each in workflow.inputs])
    for each in workflow.inputs:
        column = fields.column(each.resource, each.column)
        name = f"{each.resource}.{each.column}"
        if column is None:
            yield PartDiagnostic(("input", each.name), f"there is no column {name}")
        elif column.hidden:
            yield PartDiagnostic(("input", each.name), f"{name} is hidden; no input has its type")
        elif column.type not in GROUPS:
            yield PartDiagnostic(("input", each.name), f"{name} is {column.type}; an input is {', '.join(GROUPS)}")


def _once(workflow: Workflow, unread: frozenset[Path]) -> Iterator[PartDiagnostic]:
    declared = {each.name for each in workflow.inputs} | {each[1] for each in unread if each[0] == "input" and each[1:]}
    for index, each in enumerate(workflow.once):
        if each.name not in declared:
            yield PartDiagnostic(("once", index), f"there is no input {each.name}")
    writes = [each.name for each in workflow.steps if isinstance(each, CreateStep | UpdateStep | DeleteStep)]
    if writes and not workflow.once and ("once",) not in unread:
        yield PartDiagnostic(
            ("once",), f"{writes[0]} writes: name the inputs of the business key, such as `once: [input.ticket]`"
        )


def _limits(workflow: Workflow, fields: Fields) -> Iterator[PartDiagnostic]:
    limits = workflow.limits
    if not limits.run.calls:
        yield PartDiagnostic(("limits", "calls"), "a run needs at least one call")
    for step in workflow.steps:
        if isinstance(step, ComputeStep | ChooseStep):
            continue
        rows = 1 if isinstance(step, CreateStep) else step.limit
        if rows > limits.run.rows:
            yield PartDiagnostic(("limits", "rows"), f"{step.name} alone may need {rows} rows, of {limits.run.rows}")
    for name, limit in limits.run.sums.items():
        yield from _sum(name, limit, workflow, fields)
    for name, day in (("agent_day", limits.agent_day), ("tenant_day", limits.tenant_day)):
        if day is not None and not _covers(day, limits.run):
            reason = "a day covers at least one run: give calls, rows and each sum, none below that of a run"
            yield PartDiagnostic(("limits", name), reason)


def _shortest(workflow: Workflow) -> Iterator[PartDiagnostic]:
    """Yields limits of calls and rows that no run can keep."""
    calls = {step.name: 2 if _needs_approval(step) else 1 for step in workflow.steps}
    rows = {step.name: _least_rows(step) for step in workflow.steps}
    limit = workflow.limits.run
    needed = least(workflow, calls)
    if needed > limit.calls:
        reason = f"a run needs {needed} calls or more, of {limit.calls}: each step costs one, and so does an approval"
        yield PartDiagnostic(("limits", "calls"), reason)
    needed = least(workflow, rows)
    if needed > limit.rows:
        yield PartDiagnostic(("limits", "rows"), f"a run needs {needed} rows or more, of {limit.rows}")


def _needs_approval(step: Step) -> bool:
    rule = step.approval if isinstance(step, CreateStep | UpdateStep | DeleteStep) else None
    return rule is not None and rule.when is None


def _least_rows(step: Step) -> int:
    """Returns the rows that a step needs at least: a write reserves all that it may change."""
    match step:
        case CreateStep():
            return 1
        case UpdateStep() | DeleteStep():
            return step.limit
        case ReadStep():
            return 1 if step.one else 0
        case _:
            return 0


def _covers(day: Amounts, run: Amounts) -> bool:
    sums = day.sums.keys() == run.sums.keys() and all(day.sums[each] >= run.sums[each] for each in run.sums)
    return sums and day.calls >= run.calls and day.rows >= run.rows


def _sum(name: str, limit: int, workflow: Workflow, fields: Fields) -> Iterator[PartDiagnostic]:
    path = ("limits", "sum", name)
    table, _, column = name.partition(".")
    found = fields.column(table, column)
    if found is None or GROUPS.get(found.type) != "integer":
        yield PartDiagnostic(path, f"{name} is no column of whole numbers")
        return
    if found.personal:
        yield PartDiagnostic(path, f"{name} is personal, and facts have the sums of a run in clear; remove the limit")
        return
    writes = [
        step
        for step in workflow.steps
        if isinstance(step, CreateStep | UpdateStep) and step.resource == table and column in step.set
    ]
    if not writes:
        yield PartDiagnostic(path, f"no step writes {name}; remove the limit")
    for step in writes:
        argument = step.set[column]
        greatest = argument.maximum if isinstance(argument, Slot) else argument
        value = greatest.value if isinstance(greatest, FixedValue) and isinstance(greatest.value, int) else 0
        rows = step.limit if isinstance(step, UpdateStep) else 1
        if value * rows > limit:
            yield PartDiagnostic(path, f"{step.name} alone may add {value * rows} to the sum of {name}, of {limit}")
