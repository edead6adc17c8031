"""Disclosure: the part of a run's values that its role may read now, under the grants and labels in force.

Answers repeat what a run has stored, perhaps under an older bundle. A column that is hidden now, or that no read
permit in force covers, is left out, and so is a value that was made of one. A field that the workflow in force cannot
return any more is left out, too: the schema of its tool does not have it.
"""

from collections.abc import Iterable, Mapping

from paybill_contracts.agent_bundles import (
    Argument,
    ChooseStep,
    ComputeStep,
    CreateStep,
    DeleteStep,
    FieldValue,
    InputValue,
    ReadStep,
    ResourceColumn,
    Step,
    TemplateValue,
    UpdateStep,
)
from paybill_contracts.agent_runs import Fields
from paybill_definitions.agent_conditions import names

from paybill_agent_gateway.domain.answers import PlainFields
from paybill_agent_gateway.domain.runs import Done
from paybill_agent_gateway.domain.turns import Progress, is_single
from paybill_agent_gateway.domain.workflows import CompiledBundle, CompiledWorkflow, RowStep


class Disclosure:
    """The values of a run that its role may read. in_force: the bundle in force.

    fresh: numbers of the actions of this very call: their rows were read under the grants in force.
    """

    def __init__(self, so_far: Progress, in_force: CompiledBundle, fresh: frozenset[int] = frozenset()) -> None:
        self._so_far = so_far
        self._in_force = in_force
        self._fresh = fresh
        self._fields: set[str] = set()

    def actions(self) -> Iterable[tuple[Done, list[PlainFields]]]:
        """Returns the actions of the run with the fields of their rows; a row without any is left out."""
        for done in self._so_far.run.done:
            step = self._so_far.workflow.steps[done.step]
            rows = [self._row(done, step, self._so_far.opened(row)) for row in done.rows]
            if is_single(step):
                self._fields -= {each for each in self._fields if each.startswith(f"{step.name}.")}
                self._fields |= {f"{step.name}.{name}" for row in rows for name in row}
            if self._is_answered(step):
                yield done, [row for row in rows if row or is_single(step)]

    def arguments(self, step: str, arguments: Fields) -> Fields:
        """Returns the arguments of an action that the role may read, after `actions`."""
        found = self._so_far.workflow.steps[step]
        return {
            name: value
            for name, value in arguments.items()
            if (argument := argument_of(found, name)) is not None and self._is_known(argument)
        }

    def inputs(self) -> Fields:
        """Returns the inputs of the run whose columns the role may read."""
        run = self._so_far.run
        return {
            each.name: run.inputs[each.name]
            for each in self._so_far.workflow.workflow.inputs
            if each.name in run.inputs
            and each.column in self._in_force.grants.readable(run.role, each.resource)
            and self._has_column(each.resource, each.column)
        }

    def _row(self, done: Done, step: Step, row: PlainFields) -> PlainFields:
        match step:
            case ChooseStep():
                return row
            case ComputeStep():
                allowed = {name for name, argument in step.values.items() if self._is_known(argument)}
                allowed |= {name for name, each in step.conditions.items() if names(each) <= self._fields}
            case ReadStep() if done.seq in self._fresh:
                allowed = set(row)
            case _:
                allowed = set(self._readable(step, row))
                if not isinstance(step, ReadStep):
                    arguments = {name: argument for name in row if (argument := argument_of(step, name)) is not None}
                    allowed |= {name for name, argument in arguments.items() if self._is_known(argument)}
        return {name: value for name, value in row.items() if name in allowed and self._has(step, name, value)}

    def _readable(self, step: RowStep, row: PlainFields) -> frozenset[str]:
        """Returns the readable columns of a stored row, as far as its own fields decide about the conditions.

        A condition on another column still holds for a row that was read under it.
        """
        run, grants = self._so_far.run, self._so_far.bundle.grants
        earlier = grants if isinstance(step, ReadStep) else None
        return self._in_force.grants.readable_fields(run.role, step.resource, row, earlier)

    def _is_known(self, argument: Argument) -> bool:
        """Returns whether the caller knows a value already, or may read what it was made of."""
        match argument:
            case FieldValue():
                return f"{argument.step}.{argument.field}" in self._fields
            case TemplateValue():
                return all(self._is_known(part) for part in argument.parts)
            case InputValue():
                of = next(each for each in self._so_far.workflow.workflow.inputs if each.name == argument.name)
                return self._has_column(of.resource, of.column)
            case _:
                return True

    def _has_column(self, resource: str, column: str) -> bool:
        found = self._in_force.columns.get(resource, {}).get(column)
        return found is not None and not found.hidden

    def _has(self, step: Step, name: str, value: object) -> bool:
        """Returns whether a field of a step can be in an answer under the bundle in force."""
        before, after = self._so_far.workflow.fields, self._columns(step)
        column = after.get(name)
        return (
            column is not None
            and not column.hidden
            and column.type == before[f"{step.name}.{name}"].type
            and (value is not None or column.nullable)
        )

    def _columns(self, step: Step) -> Mapping[str, ResourceColumn]:
        if not isinstance(step, ComputeStep):
            return {} if isinstance(step, ChooseStep) else self._in_force.columns.get(step.resource, {})
        workflow = self._workflow or self._so_far.workflow
        prefix = f"{step.name}."
        return {name.removeprefix(prefix): each for name, each in workflow.fields.items() if name.startswith(prefix)}

    @property
    def _workflow(self) -> CompiledWorkflow | None:
        found = self._in_force.workflows.get(self._so_far.run.workflow)
        return found if found is not None and found.workflow.role == self._so_far.run.role else None

    def _is_answered(self, step: Step) -> bool:
        """Returns whether answers of the workflow in force have such a step; all have it when there is none."""
        if self._workflow is None:
            return True
        found = self._workflow.steps.get(step.name)
        if found is None or type(found) is not type(step) or is_single(found) != is_single(step):
            return False
        return isinstance(step, ChooseStep | ComputeStep) or step.resource == getattr(found, "resource", None)


def argument_of(step: Step, name: str) -> Argument | None:
    """Returns the argument for a column; `where-<column>` for one that chooses rows of an update."""
    match step:
        case CreateStep():
            return step.set.get(name)
        case UpdateStep():
            where = step.where.get(name.removeprefix("where-"))
            return where if name.startswith("where-") else step.set.get(name, where)
        case ReadStep() | DeleteStep():
            return step.where.get(name)
        case _:
            return None


def without_personal(fields: Fields) -> PlainFields:
    """Returns the fields of a fact that are not sealed."""
    return {name: value for name, value in fields.items() if value is None or isinstance(value, str | int | bool)}
