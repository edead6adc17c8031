"""Rights of agents' logins: exactly the columns and verbs that the workflows of a bundle use. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from paybill_contracts.agent_bundles import (
    AgentResource,
    Bundle,
    ChooseStep,
    ComputeStep,
    CreateStep,
    DeleteStep,
    Effect,
    Grant,
    ReadStep,
    TableRights,
    UpdateStep,
    Verb,
    Write,
)

from paybill_definitions.agent_conditions import names
from paybill_definitions.agent_steps import applies, named_columns, verb_of


def rights(bundle: Bundle) -> tuple[TableRights, ...]:
    """Returns the rights by table, sorted; none for a table that no step uses."""
    return tuple(
        each
        for resource in bundle.resources
        if (each := _rights(resource, tuple(_steps(bundle, resource.name)), bundle))
    )


def _steps(bundle: Bundle, resource: str) -> Iterator[tuple[str, ReadStep | Write]]:
    for workflow in bundle.workflows:
        for step in workflow.steps:
            if not isinstance(step, ComputeStep | ChooseStep) and step.resource == resource:
                yield workflow.role, step


def _rights(
    resource: AgentResource, steps: Sequence[tuple[str, ReadStep | Write]], bundle: Bundle
) -> TableRights | None:
    if not steps:
        return None
    grants = _Grants(bundle.grants, resource)
    select = {name for role, step in steps for name in _selected(step, role, grants)}
    return TableRights(
        table=resource.name,
        select=tuple(sorted(select)),
        insert=_set(step for _, step in steps if isinstance(step, CreateStep)),
        update=_set(step for _, step in steps if isinstance(step, UpdateStep)),
        delete=any(isinstance(step, DeleteStep) for _, step in steps),
    )


def _set(steps: Iterable[CreateStep | UpdateStep]) -> tuple[str, ...]:
    return tuple(sorted({name for step in steps for name in step.set}))


def _selected(step: ReadStep | Write, role: str, grants: "_Grants") -> Iterator[str]:
    """Yields the columns that a step reads, compares or returns, those of its grants' conditions included."""
    named = named_columns(step)
    yield from named
    yield from grants.compared(role, verb_of(step), named)
    if not isinstance(step, ReadStep) and step.approval is not None:
        yield from grants.readable(role)
        if step.approval.when is not None:
            yield from (name for name in names(step.approval.when) if "." not in name)
    if isinstance(step, UpdateStep):
        yield grants.resource.columns[0].name


class _Grants:
    """Grants about one resource. Steps are many and have few roles, actions and sets of columns: each is found once."""

    def __init__(self, grants: Iterable[Grant], resource: AgentResource) -> None:
        self.resource = resource
        self._grants = [
            _Compiled(
                each,
                frozenset(each.columns.get(resource.name, ())),
                frozenset(names(each.condition) if each.condition is not None else ()),
            )
            for each in grants
            if resource.name in each.resources
        ]
        self._applying: dict[tuple[str, Verb], list[_Compiled]] = {}
        self._compared: dict[tuple[str, Verb, frozenset[str]], frozenset[str]] = {}

    def compared(self, role: str, verb: Verb, columns: frozenset[str]) -> frozenset[str]:
        """Returns the columns in conditions of the grants that decide about a step which names `columns`."""
        key = (role, verb, columns)
        if key not in self._compared:
            self._compared[key] = frozenset[str]().union(
                *(
                    each.compared
                    for each in self._of(role, verb)
                    if each.grant.effect is Effect.FORBID or columns <= each.columns
                )
            )
        return self._compared[key]

    def readable(self, role: str) -> frozenset[str]:
        """Returns the columns that the role may read: an approver sees all of them."""
        reads = self._of(role, Verb.READ)
        if any(each.grant.effect is Effect.FORBID and each.grant.condition is None for each in reads):
            return frozenset()
        return frozenset[str]().union(*(each.columns for each in reads if each.grant.effect is Effect.PERMIT))

    def _of(self, role: str, verb: Verb) -> "list[_Compiled]":
        key = (role, verb)
        if key not in self._applying:
            self._applying[key] = [each for each in self._grants if applies(each.grant, role, verb, self.resource.name)]
        return self._applying[key]


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A grant about a resource. columns: that it permits; compared: in its condition."""

    grant: Grant
    columns: frozenset[str]
    compared: frozenset[str]
