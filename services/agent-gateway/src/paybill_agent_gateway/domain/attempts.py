"""Attempts: what a refused call was about, as far as it was known at the refusal, in the form of a fact."""

from collections.abc import Mapping
from dataclasses import dataclass

from paybill_contracts.agent_bundles import ResourceColumn, Slot

from paybill_agent_gateway.domain.answers import PlainFields
from paybill_agent_gateway.domain.disclosure import argument_of
from paybill_agent_gateway.domain.hidden import HiddenFields
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

    @property
    def _fields(self) -> HiddenFields:
        return HiddenFields(self.workflow, self.in_force.columns)

    def _is_hidden(self, name: str) -> bool:
        argument, fields = argument_of(self.step, name), self._fields
        is_column_hidden = fields.hides(self.step.resource, name.removeprefix(WHERE))
        return is_column_hidden or argument is None or fields.is_made_of(argument)

    def _has_hidden_bound(self, name: str) -> bool:
        argument, fields = argument_of(self.step, name), self._fields
        bounds = (argument.minimum, argument.maximum) if isinstance(argument, Slot) else ()
        return any(each is not None and fields.is_made_of(each) for each in bounds)
