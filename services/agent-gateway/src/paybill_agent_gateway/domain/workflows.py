"""Bundles, compiled once: resources, workflows and their conditions by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

from paybill_contracts.agent_bundles import (
    AgentResource,
    Argument,
    Bundle,
    ChooseStep,
    ComputeStep,
    CreateStep,
    DeleteStep,
    Effect,
    FieldValue,
    FixedValue,
    Grant,
    InputValue,
    ReadStep,
    ResourceColumn,
    RunValue,
    Slot,
    SlotType,
    Step,
    TemplateValue,
    UpdateStep,
    Verb,
    Workflow,
)
from paybill_contracts.agent_expressions import Condition
from paybill_definitions.agent_conditions import names

from paybill_agent_gateway.domain.conditions import Predicate, predicate
from paybill_agent_gateway.domain.grants import CompiledGrants

RowStep = ReadStep | CreateStep | UpdateStep | DeleteStep
Tables: TypeAlias = Sequence[tuple[AgentResource, frozenset[Verb]]]
"""Resources of a bundle, with the verbs of the steps on each."""
END = "end"

_SLOTS = {
    SlotType.TEXT: "text",
    SlotType.INTEGER: "bigint",
    SlotType.BOOLEAN: "boolean",
    SlotType.CHOICE: "text",
    SlotType.DATE: "date",
    SlotType.TIME: "timestamptz",
}


@dataclass(frozen=True, slots=True)
class CompiledWorkflow:
    """A workflow. fields: columns and types by `step.field`; whens: conditions of approvals, options and values.

    Conditions are named `step`, `step/option` and `step/value`.
    """

    workflow: Workflow
    steps: Mapping[str, Step]
    fields: Mapping[str, ResourceColumn]
    whens: Mapping[str, Predicate]

    @property
    def first(self) -> Step:
        """The step with which a run begins."""
        return self.workflow.steps[0]


@dataclass(frozen=True, slots=True)
class CompiledBundle:
    """A bundle with its compiled grants. columns: of each resource, by name."""

    hash: str
    bundle: Bundle
    grants: CompiledGrants
    resources: Mapping[str, AgentResource]
    columns: Mapping[str, Mapping[str, ResourceColumn]]
    workflows: Mapping[str, CompiledWorkflow]

    @classmethod
    def of(cls, content_hash: str, bundle: Bundle) -> Self:
        """Compiles a bundle. Raises ConditionError."""
        columns = {each.name: {column.name: column for column in each.columns} for each in bundle.resources}
        return cls(
            hash=content_hash,
            bundle=bundle,
            grants=CompiledGrants.of(bundle),
            resources={each.name: each for each in bundle.resources},
            columns=columns,
            workflows={each.name: _workflow(each, columns) for each in bundle.workflows},
        )

    def permits(self, role: str, verb: Verb, resource: str) -> tuple[Grant, ...]:
        """Returns the permits of a role for a verb on a resource, whatever their columns and conditions are."""
        return tuple(
            each
            for each in self.bundle.grants
            if each.effect is Effect.PERMIT
            and each.role in {None, role}
            and verb in each.verbs
            and resource in each.resources
        )


def named(step: RowStep) -> frozenset[str]:
    """Returns the columns that a step names: the grant that permits it contains all of them."""
    match step:
        case ReadStep():
            return frozenset((*step.columns, *step.where, *(each.column for each in step.order)))
        case CreateStep():
            return frozenset(step.set)
        case UpdateStep():
            return frozenset((*step.set, *step.where))
        case DeleteStep():
            return frozenset(step.where)


def tables_of(bundle: Bundle) -> Tables:
    """Returns the resources of a bundle, also those that no step uses."""
    verbs: dict[str, set[Verb]] = {}
    for step in (each for workflow in bundle.workflows for each in workflow.steps):
        if isinstance(step, RowStep):
            verbs.setdefault(step.resource, set()).add(Verb(step.kind))
    return tuple((each, frozenset(verbs.get(each.name, ()))) for each in bundle.resources)


def _workflow(workflow: Workflow, columns: Mapping[str, Mapping[str, ResourceColumn]]) -> CompiledWorkflow:
    fields: dict[str, ResourceColumn] = {}
    for step in workflow.steps:
        for name, column in _fields_of(step, workflow, fields, columns):
            fields[f"{step.name}.{name}"] = column
    whens: dict[str, Predicate] = {}
    for step in workflow.steps:
        match step:
            case CreateStep() | UpdateStep() | DeleteStep():
                if step.approval is not None and step.approval.when is not None:
                    whens[step.name] = predicate(step.approval.when, {**fields, **columns[step.resource]})
            case ComputeStep():
                for name, condition in step.conditions.items():
                    whens[f"{step.name}/{name}"] = predicate(condition, fields)
            case ChooseStep():
                for option in step.options:
                    if option.when is not None:
                        whens[f"{step.name}/{option.name}"] = predicate(option.when, fields)
            case ReadStep():
                pass
    return CompiledWorkflow(workflow, {step.name: step for step in workflow.steps}, fields, whens)


def _fields_of(
    step: Step,
    workflow: Workflow,
    fields: Mapping[str, ResourceColumn],
    columns: Mapping[str, Mapping[str, ResourceColumn]],
) -> list[tuple[str, ResourceColumn]]:
    match step:
        case ChooseStep():
            return []
        case ComputeStep():
            found = [(name, _type_of(name, value, workflow, fields, columns)) for name, value in step.values.items()]
            return found + [(name, _condition(name, condition, fields)) for name, condition in step.conditions.items()]
        case ReadStep() | CreateStep() | UpdateStep() | DeleteStep():
            return list(columns[step.resource].items())


def _type_of(
    name: str,
    value: Argument,
    workflow: Workflow,
    fields: Mapping[str, ResourceColumn],
    columns: Mapping[str, Mapping[str, ResourceColumn]],
) -> ResourceColumn:
    """Returns the type of a computed value. It is untrusted unless the run has trusted it, which `trust` decides."""
    match value:
        case FieldValue():
            return fields[f"{value.step}.{value.field}"].model_copy(update={"name": name})
        case InputValue():
            of = next(each for each in workflow.inputs if each.name == value.name)
            return columns[of.resource][of.column].model_copy(update={"name": name, "nullable": False})
        case FixedValue(value=fixed):
            kind = "boolean" if isinstance(fixed, bool) else "bigint" if isinstance(fixed, int) else "text"
            return _column(name, kind, nullable=fixed is None)
        case TemplateValue():
            parts = [_type_of(name, part, workflow, fields, columns) for part in value.parts]
            return _column(name, "text", nullable=False, personal=any(part.personal for part in parts))
        case RunValue():
            return _column(name, "text", nullable=False)
        case Slot():
            limits = [each for each in (value.minimum, value.maximum) if each is not None]
            is_personal = any(_type_of(name, each, workflow, fields, columns).personal for each in limits)
            return _column(name, _SLOTS[value.type], nullable=False, personal=is_personal)


def _condition(name: str, condition: Condition, fields: Mapping[str, ResourceColumn]) -> ResourceColumn:
    """Returns the type of a computed condition, which is personal when it names a personal field."""
    is_personal = any(fields[each].personal for each in names(condition) if each in fields)
    return _column(name, "boolean", nullable=False, personal=is_personal)


def _column(name: str, type_: str, *, nullable: bool, personal: bool = False) -> ResourceColumn:
    return ResourceColumn(name=name, type=type_, nullable=nullable, personal=personal)
