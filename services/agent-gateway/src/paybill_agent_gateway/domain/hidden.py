"""Hidden fields: what a run's workflow makes of columns that a bundle hides, or does not have any more."""

from collections.abc import Mapping
from dataclasses import dataclass

from paybill_contracts.agent_bundles import (
    Argument,
    ChooseStep,
    ComputeStep,
    CreateStep,
    DeleteStep,
    FieldValue,
    InputValue,
    ResourceColumn,
    Step,
    TemplateValue,
    UpdateStep,
)
from paybill_definitions.agent_conditions import names

from paybill_agent_gateway.domain.workflows import CompiledWorkflow, RowStep


@dataclass(frozen=True, slots=True)
class HiddenFields:
    """The hidden fields of a workflow. columns: of each resource, by name; one that is missing counts as hidden."""

    workflow: CompiledWorkflow
    columns: Mapping[str, Mapping[str, ResourceColumn]]

    def hides(self, resource: str, column: str) -> bool:
        """Returns whether a column is hidden."""
        found = self.columns.get(resource, {}).get(column)
        return found is None or found.hidden

    def is_made_of(self, argument: Argument) -> bool:
        """Returns whether a value is one of a hidden field, or is made of one."""
        match argument:
            case FieldValue():
                return self._is_field(argument.step, argument.field)
            case TemplateValue():
                return any(map(self.is_made_of, argument.parts))
            case InputValue():
                of = next(each for each in self.workflow.workflow.inputs if each.name == argument.name)
                return self.hides(of.resource, of.column)
            case _:
                return False

    def in_conditions(self, step: Step) -> tuple[str, ...]:
        """Returns the hidden names in the conditions of a choice, or of a write's approval."""
        match step:
            case ChooseStep():
                conditions, resource = [each.when for each in step.options], ""
            case CreateStep() | UpdateStep() | DeleteStep():
                conditions, resource = [step.approval.when if step.approval is not None else None], step.resource
            case _:
                return ()
        found = {name for each in conditions if each is not None for name in names(each)}
        return tuple(sorted(name for name in found if self._is_name(name, resource)))

    def _is_name(self, name: str, resource: str) -> bool:
        step, separator, field = name.partition(".")
        return self._is_field(step, field) if separator else self.hides(resource, name)

    def _is_field(self, step: str, field: str) -> bool:
        found = self.workflow.steps[step]
        if isinstance(found, RowStep):
            return self.hides(found.resource, field)
        if not isinstance(found, ComputeStep):
            return False
        if field in found.values:
            return self.is_made_of(found.values[field])
        return any(self._is_name(name, "") for name in names(found.conditions[field]))
