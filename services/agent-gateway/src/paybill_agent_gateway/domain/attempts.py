"""Attempts: what a refused call was about, as far as it was known at the refusal, in the form of a fact."""

from collections.abc import Mapping
from dataclasses import dataclass

from paybill_contracts.agent_bundles import (
    Argument,
    ComputeStep,
    FieldValue,
    InputValue,
    ResourceColumn,
    Slot,
    TemplateValue,
)
from paybill_definitions.agent_conditions import names

from paybill_agent_gateway.domain.answers import PlainFields
from paybill_agent_gateway.domain.disclosure import argument_of
from paybill_agent_gateway.domain.workflows import CompiledBundle, CompiledWorkflow, RowStep

WHERE = "where-"
"""Prefix of an argument that chooses rows of an update, in facts."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A step of a table that a call is about. workflow: of the run; in_force: the bundle whose grants decide.

    arguments: as in facts. grants: ids of those that decided, none before they did.
    """

    workflow: CompiledWorkflow
    step: RowStep
    arguments: PlainFields
    in_force: CompiledBundle
    grants: tuple[str, ...] = ()

    @property
    def shown(self) -> PlainFields:
        """The arguments without those of a hidden column, and those that are made of one, under the bundle in force.

        The run's own bundle names no hidden column in a step.
        """
        return {name: value for name, value in self.arguments.items() if not self._is_hidden(name)}

    @property
    def hidden(self) -> tuple[str, ...]:
        """Names of the arguments that are made of a hidden column, or that have a bound from one."""
        return tuple(sorted(name for name in self.arguments if self._is_hidden(name) or self._has_hidden_bound(name)))

    def labels(self, columns: Mapping[str, ResourceColumn]) -> dict[str, ResourceColumn]:
        """Returns the run's columns of the table, or those in force where they are personal now."""
        now = self.in_force.columns.get(self.step.resource, {})
        return {name: now[name] if name in now and now[name].personal else each for name, each in columns.items()}

    def _is_hidden(self, name: str) -> bool:
        argument = argument_of(self.step, name)
        is_column_hidden = self._hides(self.step.resource, name.removeprefix(WHERE))
        return is_column_hidden or argument is None or self._is_made_of_hidden(argument)

    def _has_hidden_bound(self, name: str) -> bool:
        argument = argument_of(self.step, name)
        bounds = (argument.minimum, argument.maximum) if isinstance(argument, Slot) else ()
        return any(each is not None and self._is_made_of_hidden(each) for each in bounds)

    def _is_made_of_hidden(self, argument: Argument) -> bool:
        match argument:
            case FieldValue():
                return self._is_field_hidden(argument.step, argument.field)
            case TemplateValue():
                return any(map(self._is_made_of_hidden, argument.parts))
            case InputValue():
                of = next(each for each in self.workflow.workflow.inputs if each.name == argument.name)
                return self._hides(of.resource, of.column)
            case _:
                return False

    def _is_field_hidden(self, step: str, field: str) -> bool:
        found = self.workflow.steps[step]
        if isinstance(found, RowStep):
            return self._hides(found.resource, field)
        if not isinstance(found, ComputeStep):
            return False
        if field in found.values:
            return self._is_made_of_hidden(found.values[field])
        fields = [each.partition(".") for each in names(found.conditions[field])]
        return any(self._is_field_hidden(of, name) for of, _, name in fields)

    def _hides(self, resource: str, column: str) -> bool:
        found = self.in_force.columns.get(resource, {}).get(column)
        return found is None or found.hidden
