"""Trust: one static rule about the origin of values. Everything that a model sends is untrusted.

Trusted are constants of the run's workflow, the run's id, fields without the label `untrusted` that the run has read,
and inputs that a person or a program gave. A slot is accepted like them when it equals one of them, or when its bounds
come from them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from paybill_contracts.agent_bundles import (
    Argument,
    Bound,
    ChooseStep,
    ComputeStep,
    CreateStep,
    DeleteStep,
    FieldValue,
    FixedValue,
    InputValue,
    ReadStep,
    RunValue,
    Scalar,
    Slot,
    SlotType,
    TemplateValue,
    UpdateStep,
)

from paybill_agent_gateway.domain.answers import PlainFields
from paybill_agent_gateway.domain.workflows import CompiledBundle, CompiledWorkflow

_BOUNDED = {SlotType.INTEGER, SlotType.DATE, SlotType.TIME}


@dataclass(frozen=True, slots=True)
class Origins:
    """The rule for one workflow in a run. rows_of: all rows of a step so far; inputs: when trusted."""

    bundle: CompiledBundle
    workflow: CompiledWorkflow
    has_trusted_inputs: bool
    inputs: PlainFields
    rows_of: Callable[[str], list[PlainFields]]

    def is_trusted(self, argument: Argument, value: Scalar | None) -> bool:
        """Returns whether an argument with this value may decide about a trusted field."""
        match argument:
            case FixedValue() | RunValue():
                return True
            case InputValue():
                return self.has_trusted_inputs or self._is_known(value)
            case FieldValue():
                return self._is_trusted_field(argument.step, argument.field) or self._is_known(value)
            case TemplateValue():
                return all(self._is_trusted_part(part) for part in argument.parts)
            case Slot():
                return self._is_bounded(argument) or self._is_known(value)

    def _is_trusted_part(self, part: FixedValue | InputValue | FieldValue | RunValue) -> bool:
        match part:
            case FixedValue() | RunValue():
                return True
            case InputValue():
                return self.has_trusted_inputs
            case FieldValue():
                return self._is_trusted_field(part.step, part.field)

    def _is_trusted_field(self, step_name: str, field: str) -> bool:
        step = self.workflow.steps[step_name]
        match step:
            case ReadStep():
                return not self.bundle.columns[step.resource][field].untrusted
            case CreateStep() | UpdateStep():
                # What a run has written itself is as trusted as its origin, also where it was approved.
                return field in step.set and self._is_origin_trusted(step.set[field])
            case DeleteStep():
                return False
            case ComputeStep():
                return field in step.conditions or self._is_origin_trusted(step.values[field])
            case ChooseStep():
                return False

    def _is_origin_trusted(self, argument: Argument) -> bool:
        if isinstance(argument, Slot):
            return self._is_bounded(argument)
        if isinstance(argument, TemplateValue):
            return all(self._is_trusted_part(part) for part in argument.parts)
        return self._is_trusted_part(argument)

    def _is_bounded(self, slot: Slot) -> bool:
        if slot.type in {SlotType.BOOLEAN, SlotType.CHOICE}:
            return True
        bounds = (slot.minimum, slot.maximum)
        return slot.type in _BOUNDED and all(each is not None and self._is_trusted_bound(each) for each in bounds)

    def _is_trusted_bound(self, bound: Bound) -> bool:
        return isinstance(bound, FixedValue) or self._is_trusted_field(bound.step, bound.field)

    def _is_known(self, value: Scalar | None) -> bool:
        """Returns whether a value equals a trusted one of this run. A boolean or NULL would always do."""
        if value is None or isinstance(value, bool):
            return False
        found: list[Scalar | None] = [*self.workflow.constants]
        found += self.inputs.values() if self.has_trusted_inputs else ()
        for name, step in self.workflow.steps.items():
            if isinstance(step, ReadStep):
                rows = self.rows_of(name)
                found += [each for row in rows for field, each in row.items() if self._is_trusted_field(name, field)]
        return any(type(each) is type(value) and each == value for each in found)


def untrusted_arguments(
    step: CreateStep | UpdateStep | DeleteStep, values: Mapping[str, Scalar | None], origins: Origins
) -> tuple[str, ...]:
    """Returns the arguments that need an approval: untrusted ones for a trusted field, or for the choice of rows.

    values: by `set.<column>` and `where.<column>`.
    """
    is_open = origins.bundle.open_columns[step.resource]
    found: list[str] = []
    if not isinstance(step, CreateStep):
        found += [name for name, each in step.where.items() if not origins.is_trusted(each, values[f"where.{name}"])]
    if not isinstance(step, DeleteStep):
        found += [
            name
            for name, each in step.set.items()
            if name not in is_open and not origins.is_trusted(each, values[f"set.{name}"])
        ]
    return tuple(found)
