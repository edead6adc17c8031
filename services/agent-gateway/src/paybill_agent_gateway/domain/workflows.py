"""Bundles, compiled once: resources, workflows and their conditions by name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
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
    FixedValue,
    Grant,
    ReadStep,
    ResourceColumn,
    Scalar,
    Step,
    UpdateStep,
    Verb,
    Workflow,
)
from paybill_definitions.agent_fields import Fields

from paybill_agent_gateway.domain.conditions import Predicate, predicate
from paybill_agent_gateway.domain.grants import CompiledGrants

RowStep = ReadStep | CreateStep | UpdateStep | DeleteStep
Tables: TypeAlias = Sequence[tuple[AgentResource, frozenset[Verb]]]
"""Resources of a bundle, with the verbs of the steps on each."""
END = "end"
MAX_LABELLED = 64
"""Bundles with the labels of a newer bundle that a process keeps, the last ones used."""


@dataclass(frozen=True, slots=True)
class CompiledWorkflow:
    """A workflow. fields: columns and types by `step.field`; whens: conditions of approvals, options and values.

    Conditions are named `step`, `step/option` and `step/value`. constants: arguments that the author has fixed; a
    part of a template and a limit of a slot are none.
    """

    workflow: Workflow
    steps: Mapping[str, Step]
    fields: Mapping[str, ResourceColumn]
    whens: Mapping[str, Predicate]
    constants: tuple[Scalar, ...]

    @property
    def first(self) -> Step:
        """The step with which a run begins."""
        return self.workflow.steps[0]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledBundle:
    """A bundle with its compiled grants. columns: of each resource, by name.

    open_columns: of each resource, those that may have untrusted values without an approval. A bundle is compiled once
    and is equal to itself alone.
    """

    hash: str
    bundle: Bundle
    grants: CompiledGrants
    resources: Mapping[str, AgentResource]
    columns: Mapping[str, Mapping[str, ResourceColumn]]
    workflows: Mapping[str, CompiledWorkflow]
    open_columns: Mapping[str, frozenset[str]]

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
            workflows={
                each.name: _workflow(each, columns, Fields.of(each, bundle.resources)) for each in bundle.workflows
            },
            open_columns={
                each.name: frozenset(column.name for column in each.columns if column.untrusted)
                for each in bundle.resources
            },
        )

    def labelled(self, in_force: "CompiledBundle", workflow: str) -> "CompiledBundle":
        """Returns the bundle of a run with the labels of the bundle in force added, for the run's workflow.

        The stricter label counts: a column is open when both bundles label it as untrusted, and a column that the
        bundle in force does not have is hidden, and untrusted as a source.
        """
        return self if in_force.hash == self.hash else _with_labels(self, in_force, workflow)

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


@lru_cache(MAX_LABELLED)
def _with_labels(own: CompiledBundle, in_force: CompiledBundle, workflow: str) -> CompiledBundle:
    """Returns a run's bundle with the labels in force: it follows from both bundles, and each step needs it."""
    columns = {
        name: {each.name: _labelled(each, in_force.columns.get(name, {}).get(each.name)) for each in of.values()}
        for name, of in own.columns.items()
    }
    resources = {
        name: each.model_copy(update={"columns": tuple(columns[name].values())}) for name, each in own.resources.items()
    }
    known = own.workflows[workflow].workflow
    return replace(
        own,
        resources=resources,
        columns=columns,
        workflows={**own.workflows, workflow: _workflow(known, columns, Fields.of(known, resources.values()))},
        open_columns={
            name: names & in_force.open_columns.get(name, frozenset()) for name, names in own.open_columns.items()
        },
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


def _labelled(column: ResourceColumn, newer: ResourceColumn | None) -> ResourceColumn:
    labels = {
        "hidden": column.hidden or newer is None or newer.hidden,
        "untrusted": column.untrusted or newer is None or newer.untrusted,
        "personal": column.personal or (newer is not None and newer.personal),
    }
    return column.model_copy(update=labels)


def _workflow(workflow: Workflow, columns: Mapping[str, Mapping[str, ResourceColumn]], of: Fields) -> CompiledWorkflow:
    """Compiles a workflow. of: types of its computed values, in whatever order the file has their steps."""
    fields: dict[str, ResourceColumn] = {}
    for step in workflow.steps:
        if isinstance(step, ComputeStep):
            found = of.fields(step.name)
        else:
            found = columns[step.resource] if isinstance(step, RowStep) else {}
        fields |= {f"{step.name}.{name}": column for name, column in found.items()}
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
    constants = tuple(each for step in workflow.steps for each in _constants(step))
    return CompiledWorkflow(workflow, {step.name: step for step in workflow.steps}, fields, whens, constants)


def _constants(step: Step) -> Iterator[Scalar]:
    arguments: list[Argument] = []
    match step:
        case ReadStep() | DeleteStep():
            arguments = [*step.where.values()]
        case CreateStep():
            arguments = [*step.set.values()]
        case UpdateStep():
            arguments = [*step.where.values(), *step.set.values()]
        case ComputeStep():
            arguments = [*step.values.values()]
        case ChooseStep():
            pass
    yield from (each.value for each in arguments if isinstance(each, FixedValue) and each.value is not None)
