"""Steps from the built resources of an environment to the desired ones. Pure; equal inputs give equal steps."""

from collections.abc import Collection, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from paybill_contracts.environment_plans import Resource, Step, StepAction
from paybill_contracts.errors import DomainError
from paybill_contracts.kinds import Attributes, Change, Schema, Secret, meanings
from paybill_contracts.placement import Isolation
from paybill_definitions.blueprint_rules import newly_required

SHARED_KINDS = frozenset({"database", "network", "compute"})
"""Kinds of which a pool or a bridge has one for all its tenants: it is not the tenant's, and no plan deletes it."""


class BrokenGraphError(DomainError):
    """A resource needs a missing one, or two need each other."""

    code = "broken_graph"


class ChangeRefusedError(DomainError):
    """An attribute of a built resource cannot change."""

    code = "change_refused"


def diff(
    target: Iterable[Resource],
    built: Iterable[Resource],
    replaced: Iterable[Resource] = (),
    *,
    missing: Collection[str] = (),
    changed: Collection[str] = (),
    unconfirmed: Collection[str] = (),
) -> tuple[Step, ...]:
    """Returns the steps from `built` to `target`, each after those that it needs.

    replaced: resources that exist or may exist, of earlier plans; they are deleted unless desired again.
    missing, changed: addresses of built resources that were found missing or changed, and are repaired.
    unconfirmed: addresses of built resources that an earlier plan may have changed, and that are set again.
    Another identity, such as another database, is a replacement: the old resource is deleted by a step of its own.
    Deletions come last, in the reverse order of creation. Raises BrokenGraphError, ChangeRefusedError.
    """
    before, after = _by_address(built), _by_address(target)
    steps: list[Step] = []
    new: set[str] = set()
    parts: set[str] = set()
    repaired: set[str] = set()
    for resource in ordered(after.values()):
        old = before.get(resource.address)
        if old is not None and is_same(old, resource) and resource.address in missing:
            steps.append(Step(action=StepAction.CREATE, before=None, after=_at_once(resource), repairs=True))
            repaired.add(resource.address)
            continue
        step = _step(old, resource, new, parts)
        if step is None and (resource.address in changed or repaired.intersection(resource.needs)):
            steps.append(Step(action=StepAction.UPDATE, before=old, after=resource, repairs=True))
            continue
        if step is None and resource.address in unconfirmed:
            step = Step(action=StepAction.UPDATE, before=old, after=resource)
        if step is None:
            continue
        steps.append(step)
        if resource.kind in {"secret", "schema"}:
            parts.add(resource.address)
        if step.reason is not None:
            new.add(resource.address)
    left = [each for each in replaced if not any(is_same(each, desired) for desired in after.values())]
    gone = {
        address
        for address, resource in before.items()
        if (address not in after or address in new) and not is_shared(resource)
    }
    # Most plans delete nothing, and then the order of the built resources is not computed.
    removed = [resource for resource in ordered(before.values()) if resource.address in gone] if gone else []
    deleted = reversed([*removed, *left])
    return (*steps, *(Step(action=StepAction.DELETE, before=resource, after=None) for resource in deleted))


def is_shared(resource: Resource) -> bool:
    """Returns True for a resource that other tenants use, too."""
    return resource.kind in SHARED_KINDS and resource.isolation is not Isolation.SILO


def cells_of(resources: Iterable[Resource]) -> frozenset[tuple[Isolation, int]]:
    """Returns the cells in which these resources are, by level and number."""
    return frozenset(
        (each.isolation, each.attributes.cell)
        for each in resources
        if isinstance(each.attributes, Schema) and each.attributes.cell is not None
    )


def is_same(resource: Resource, other: Resource) -> bool:
    """Returns True when both are one resource at the provider. Earlier plans called a replacement an update."""
    return (resource.kind, resource.identity) == (other.kind, other.identity)


def _step(before: Resource | None, after: Resource, replaced: set[str], parts: set[str]) -> Step | None:
    """Returns the step of one resource; None when it is as desired. parts: secrets and schemas with a step, of logins.

    A login gets its password again, and its privileges on new tables.
    """
    if before is None:
        return Step(action=StepAction.CREATE, before=None, after=after)
    reason = _replacement(before, after, replaced)
    if reason is not None:
        if is_shared(before):
            return Step(action=StepAction.CREATE, before=None, after=after, reason=reason)
        return Step(action=StepAction.REPLACE, before=before, after=after, reason=reason)
    if _is_as_desired(before, after) and not (replaced | parts).intersection(after.needs):
        return None
    action = StepAction.REBUILD if _is_rebuilt(before, after) else StepAction.UPDATE
    return Step(action=action, before=before, after=after)


def _is_rebuilt(before: Resource, after: Resource) -> bool:
    """Returns True when an attribute changed for which the content of the resource is written anew."""
    return any(
        meaning.change is Change.REBUILD and getattr(before.attributes, name) != getattr(after.attributes, name)
        for name, meaning in meanings(type(after.attributes))
    )


def _at_once(resource: Resource) -> Resource:
    """Returns the resource; a secret that was made on demand is made again, with another value."""
    if not isinstance(resource.attributes, Secret):
        return resource
    return resource.model_copy(update={"attributes": resource.attributes.model_copy(update={"on_demand": False})})


def _is_as_desired(before: Resource, after: Resource) -> bool:
    """Returns True when nothing changes. A secret that was made at once stays when it could be made on demand."""
    if isinstance(before.attributes, Secret) and isinstance(after.attributes, Secret) and after.attributes.on_demand:
        on_demand = before.attributes.model_copy(update={"on_demand": True})
        return before.model_copy(update={"attributes": on_demand}) == after
    return before == after


def _replacement(before: Resource, after: Resource, replaced: set[str]) -> str | None:
    """Returns the reason why `after` is another resource than `before`. Raises ChangeRefusedError."""
    if before.kind != after.kind:
        return f"its kind was {before.kind}"
    reason = None
    for name, meaning in meanings(type(after.attributes)):
        old, new = getattr(before.attributes, name), getattr(after.attributes, name)
        if meaning.change is Change.REFUSE and old != new:
            old, new = ("not set" if each is None else each for each in (old, new))
            raise ChangeRefusedError(f"{after.address}: {name} is {old} and cannot become {new}")
        if meaning.change is Change.REPLACE and (old != new or (meaning.needs and new in replaced)):
            reason = reason or _reason(before, after, name)
    _require_compatible_tables(before.attributes, after.attributes, after.address)
    return reason


def _reason(before: Resource, after: Resource, attribute: str) -> str:
    if before.isolation is not after.isolation:
        return f"placement of layer {after.layer} changed from {before.isolation} to {after.isolation}"
    return f"{attribute} changed"


def _require_compatible_tables(before: Attributes, after: Attributes, address: str) -> None:
    """Raises ChangeRefusedError when a table or column would be removed or changed: both may hold data."""
    if not (isinstance(before, Schema) and isinstance(after, Schema)):
        return
    tables = {table.name: table for table in after.tables}
    for table in before.tables:
        if table.name not in tables:
            raise ChangeRefusedError(f"{address}: the table {table.name} is built and is not removed")
        columns = {column.name: column.type for column in tables[table.name].columns}
        if table.columns[0].name != tables[table.name].columns[0].name:
            raise ChangeRefusedError(f"{address}: the key of {table.name} is {table.columns[0].name} and cannot change")
        for column in table.columns:
            if columns.get(column.name) != column.type:
                raise ChangeRefusedError(
                    f"{address}: {table.name}.{column.name} is {column.type} and cannot be changed or removed"
                )
        if required := newly_required(table, tables[table.name]):
            raise ChangeRefusedError(
                f"{address}: {table.name}.{required[0]} cannot become required: rows that exist may have no value"
            )


def may_begin(step: Step, open_steps: Iterable[Step]) -> bool:
    """Returns whether nothing that `step` needs is among the open steps of its plan.

    A resource is created after those that it needs, and deleted after all creations and after those that need it.
    """
    if step.after is not None:
        return not any(each.after is not None and each.address in step.after.needs for each in open_steps)
    return not any(
        each.after is not None or (each.before is not None and step.address in each.before.needs) for each in open_steps
    )


def ordered(resources: Iterable[Resource]) -> tuple[Resource, ...]:
    """Sorts `resources` topologically, and by address where order is free. Raises BrokenGraphError."""
    by_address = _by_address(resources)
    for resource in by_address.values():
        missing = sorted(need for need in resource.needs if need not in by_address)
        if missing:
            raise BrokenGraphError(f"{resource.address} needs {missing[0]}, which does not exist")
    sorter = TopologicalSorter({address: resource.needs for address, resource in by_address.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        raise BrokenGraphError(f"these need each other: {', '.join(error.args[1])}") from error
    result: list[Resource] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        result += [by_address[address] for address in ready]
        sorter.done(*ready)
    return tuple(result)


def _by_address(resources: Iterable[Resource]) -> Mapping[str, Resource]:
    found: dict[str, Resource] = {}
    for resource in resources:
        if resource.address in found:
            raise BrokenGraphError(f"{resource.address} is defined twice")
        found[resource.address] = resource
    return found
