"""Types and trust of the values in a workflow: inputs, fields of rows that were read, and computed values. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from paybill_contracts.agent_bundles import (
    AgentResource,
    Argument,
    ChooseStep,
    ComputeStep,
    CreateStep,
    DeleteStep,
    FieldValue,
    FixedValue,
    InputValue,
    ReadStep,
    ResourceColumn,
    RunValue,
    Slot,
    SlotType,
    Step,
    TemplateValue,
    UpdateStep,
    Workflow,
    WorkflowInput,
)
from paybill_contracts.agent_expressions import Condition

from paybill_definitions.agent_conditions import names

INTEGER_MAX = 2**31 - 1
_SLOT_TYPES = {
    SlotType.TEXT: "text",
    SlotType.CHOICE: "text",
    SlotType.BOOLEAN: "boolean",
    SlotType.DATE: "date",
    SlotType.TIME: "timestamptz",
}


@dataclass(frozen=True, slots=True)
class Computed:
    """A compute step: its arguments and conditions; None for a condition that is not read yet."""

    values: Mapping[str, Argument]
    conditions: Mapping[str, Condition | None]


@dataclass(frozen=True, slots=True)
class Fields:
    """Sources of the values in one workflow. reads: steps with one row alone."""

    resources: Mapping[str, AgentResource]
    inputs: Mapping[str, WorkflowInput]
    reads: Mapping[str, ReadStep]
    computed: Mapping[str, Computed]
    _found: dict[tuple[str, str], ResourceColumn | None] = field(default_factory=dict)

    @classmethod
    def of(cls, workflow: Workflow, resources: Iterable[AgentResource]) -> Self:
        """Collects the sources of a workflow."""
        return cls(
            resources={each.name: each for each in resources},
            inputs={each.name: each for each in workflow.inputs},
            reads={step.name: step for step in workflow.steps if isinstance(step, ReadStep) and step.one},
            computed={
                step.name: Computed(step.values, step.conditions)
                for step in workflow.steps
                if isinstance(step, ComputeStep)
            },
        )

    def column(self, resource: str, name: str) -> ResourceColumn | None:
        """Returns a column; None for an unknown one."""
        found = self.resources.get(resource)
        return next((each for each in found.columns if each.name == name), None) if found else None

    def input(self, name: str) -> ResourceColumn | None:
        """Returns the column whose type an input has; its value is never NULL."""
        declared = self.inputs.get(name)
        column = self.column(declared.resource, declared.column) if declared else None
        return column.model_copy(update={"nullable": False}) if column else None

    def fields(self, step: str) -> Mapping[str, ResourceColumn]:
        """Returns the fields of a step's row or values; none for a step without."""
        if step in self.reads:
            names: Iterable[str] = self.reads[step].columns
        elif step in self.computed:
            names = (*self.computed[step].values, *self.computed[step].conditions)
        else:
            return {}
        return {name: column for name in names if (column := self.field(step, name)) is not None}

    def field(self, step: str, name: str) -> ResourceColumn | None:
        """Returns the type of a field; None for an unknown one, or one that is computed from itself."""
        key = (step, name)
        if key not in self._found:
            self._found[key] = None
            self._found[key] = self._field(step, name)
        return self._found[key]

    def _field(self, step: str, name: str) -> ResourceColumn | None:
        if step in self.reads:
            read = self.reads[step]
            return self.column(read.resource, name) if name in read.columns else None
        if step not in self.computed:
            return None
        if name in self.computed[step].conditions:
            condition = self.computed[step].conditions[name]
            named = [self.field(*each.partition(".")[::2]) for each in names(condition)] if condition else []
            is_personal = any(each is not None and each.personal for each in named)
            return ResourceColumn(name=name, type="boolean", nullable=False, personal=is_personal)
        argument = self.computed[step].values.get(name)
        found = self.type_of(argument) if argument is not None else None
        return found.model_copy(update={"name": name}) if found else None

    def type_of(self, argument: Argument) -> ResourceColumn | None:
        """Returns the type of an argument, whether it may be NULL, and whether it follows from a personal value.

        None for a reference to nothing, and for NULL.
        """
        match argument:
            case FixedValue():
                return _constant(argument)
            case InputValue():
                return self.input(argument.name)
            case FieldValue():
                return self.field(argument.step, argument.field)
            case RunValue():
                return ResourceColumn(name="id", type="text", nullable=False)
            case TemplateValue():
                is_personal = self._has_personal(argument.parts)
                return ResourceColumn(name="text", type="text", nullable=False, personal=is_personal)
            case Slot():
                is_personal = self._has_personal(each for each in (argument.minimum, argument.maximum) if each)
                type_ = self.slot_type(argument)
                return ResourceColumn(name="slot", type=type_, nullable=False, personal=is_personal)

    def _has_personal(self, arguments: Iterable[Argument]) -> bool:
        return any(found is not None and found.personal for found in map(self.type_of, arguments))

    def is_asked(self, argument: Argument, within: frozenset[str] = frozenset()) -> bool:
        """Returns whether a value contains a slot of this step or of one that computes. within: as of `is_trusted`."""
        match argument:
            case Slot():
                return True
            case TemplateValue():
                return any(self.is_asked(each, within) for each in argument.parts)
            case FieldValue():
                name = f"{argument.step}.{argument.field}"
                computed = self.computed.get(argument.step)
                value = computed.values.get(argument.field) if computed else None
                return value is not None and name not in within and self.is_asked(value, within | {name})
            case _:
                return False

    def slot_type(self, slot: Slot) -> str:
        """Returns the column type of a slot's values: an integer only when both limits are one."""
        if slot.type is not SlotType.INTEGER:
            return _SLOT_TYPES[slot.type]
        bounds = [self.type_of(each) if each else None for each in (slot.minimum, slot.maximum)]
        return "integer" if all(each is not None and each.type == "integer" for each in bounds) else "bigint"

    def is_trusted(self, argument: Argument, bound: frozenset[str], within: frozenset[str] = frozenset()) -> bool:
        """Returns whether a value comes from the author, or from a field without the label `untrusted`.

        A slot is trusted when it is bounded: a boolean, a choice, or within limits that are trusted. A slot that equals
        a constant or a trusted field is accepted in a run alone: any other value of it is possible. bound: inputs that
        equal a trusted field. within: fields that are computed from this argument.
        """
        match argument:
            case FixedValue() | RunValue():
                return True
            case InputValue():
                return argument.name in bound
            case FieldValue():
                return self._is_trusted_field(argument, bound, within)
            case TemplateValue():
                return all(self.is_trusted(each, bound, within) for each in argument.parts)
            case Slot():
                limits = (argument.minimum, argument.maximum)
                return argument.type in {SlotType.BOOLEAN, SlotType.CHOICE} or (
                    argument.type is not SlotType.TEXT
                    and all(each is not None and self.is_trusted(each, bound, within) for each in limits)
                )

    def _is_trusted_field(self, argument: FieldValue, bound: frozenset[str], within: frozenset[str]) -> bool:
        computed = self.computed.get(argument.step)
        name = f"{argument.step}.{argument.field}"
        if computed is None:
            column = self.field(argument.step, argument.field)
            return column is not None and not column.untrusted
        if argument.field in computed.conditions:
            return True
        value = computed.values.get(argument.field)
        return value is not None and name not in within and self.is_trusted(value, bound, within | {name})


def _constant(argument: FixedValue) -> ResourceColumn | None:
    value = argument.value
    if value is None:
        return None
    if isinstance(value, bool):
        type_ = "boolean"
    elif isinstance(value, int):
        type_ = "integer" if abs(value) <= INTEGER_MAX else "bigint"
    else:
        type_ = "text"
    return ResourceColumn(name="constant", type=type_, nullable=False)


def used_steps(step: Step) -> set[str]:
    """Returns the step, and the steps whose fields it uses."""
    conditions: list[Condition | None] = []
    arguments: list[Argument] = [
        argument for part in ("where", "set", "values") for argument in getattr(step, part, {}).values()
    ]
    match step:
        case ChooseStep():
            conditions += [option.when for option in step.options]
        case ComputeStep():
            conditions += step.conditions.values()
        case CreateStep() | UpdateStep() | DeleteStep():
            conditions += [step.approval.when] if step.approval else []
            undo = step.compensation
            arguments += [*undo.where.values(), *undo.set.values()] if undo else []
        case _:
            pass
    named = {name.partition(".")[0] for each in conditions if each for name in names(each) if "." in name}
    return {step.name, *named, *(owner for each in arguments for owner in _owners(each))}


def _owners(argument: Argument) -> Iterator[str]:
    """Yields the steps whose fields an argument uses."""
    match argument:
        case FieldValue():
            yield argument.step
        case TemplateValue():
            yield from (part.step for part in argument.parts if isinstance(part, FieldValue))
        case Slot():
            yield from (each.step for each in (argument.minimum, argument.maximum) if isinstance(each, FieldValue))
        case _:
            pass
