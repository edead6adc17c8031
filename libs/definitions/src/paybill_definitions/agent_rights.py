"""Rights of agents' logins: exactly the columns and verbs that the workflows of a bundle use. Pure."""

from collections.abc import Iterable, Iterator, Sequence

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
    select = {name for role, step in steps for name in _selected(step, role, bundle.grants, resource)}
    return TableRights(
        table=resource.name,
        select=tuple(sorted(select)),
        insert=_set(step for _, step in steps if isinstance(step, CreateStep)),
        update=_set(step for _, step in steps if isinstance(step, UpdateStep)),
        delete=any(isinstance(step, DeleteStep) for _, step in steps),
    )


def _set(steps: Iterable[CreateStep | UpdateStep]) -> tuple[str, ...]:
    return tuple(sorted({name for step in steps for name in step.set}))


def _selected(step: ReadStep | Write, role: str, grants: Sequence[Grant], resource: AgentResource) -> Iterator[str]:
    """Yields the columns that a step reads, compares or returns, those of its grants' conditions included."""
    yield from named_columns(step)
    for grant in (*_permits(step, role, grants), *_forbids(step, role, grants)):
        if grant.condition is not None:
            yield from names(grant.condition)
    if not isinstance(step, ReadStep) and step.approval is not None:
        yield from _readable(role, resource, grants)
        if step.approval.when is not None:
            yield from (name for name in names(step.approval.when) if "." not in name)
    if isinstance(step, UpdateStep):
        yield resource.columns[0].name


def _readable(role: str, resource: AgentResource, grants: Sequence[Grant]) -> Iterator[str]:
    """Yields the columns that the role may read: an approver sees all of them."""
    reads = [each for each in grants if applies(each, role, Verb.READ, resource.name)]
    if not any(each.effect is Effect.FORBID and each.condition is None for each in reads):
        yield from (name for each in reads if each.effect is Effect.PERMIT for name in each.columns[resource.name])


def _permits(step: ReadStep | Write, role: str, grants: Iterable[Grant]) -> list[Grant]:
    named = named_columns(step)
    return [
        each
        for each in _applying(step, role, grants)
        if each.effect is Effect.PERMIT and named <= set(each.columns[step.resource])
    ]


def _forbids(step: ReadStep | Write, role: str, grants: Iterable[Grant]) -> list[Grant]:
    return [each for each in _applying(step, role, grants) if each.effect is Effect.FORBID]


def _applying(step: ReadStep | Write, role: str, grants: Iterable[Grant]) -> list[Grant]:
    return [each for each in grants if applies(each, role, verb_of(step), step.resource)]
