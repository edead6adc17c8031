"""Rules of one step: columns are permitted, arguments typed and bound, and untrusted values need an approval. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from paybill_contracts.agent_bundles import (
    AgentResource,
    Argument,
    ChooseStep,
    ComputeStep,
    CreateStep,
    DeleteStep,
    Effect,
    Grant,
    InputValue,
    ReadStep,
    ResourceColumn,
    Slot,
    Step,
    UpdateStep,
    Verb,
    Workflow,
    Write,
)
from paybill_contracts.agent_expressions import Condition

from paybill_definitions.agent_choices import errors as choice_errors
from paybill_definitions.agent_conditions import errors as condition_errors
from paybill_definitions.agent_fields import Fields
from paybill_definitions.agent_flow import available, has_fields, heads
from paybill_definitions.agent_outcomes import NULL, Known, known, outcomes
from paybill_definitions.agent_values import errors as argument_errors
from paybill_definitions.agent_values import references
from paybill_definitions.diagnostics import PartDiagnostic
from paybill_definitions.yaml_lines import Path

RESERVED_SLOTS = frozenset({"run", "seq", "choice"})
"""Arguments that every tool of a step has."""
_NO_WHERE = frozenset({"numeric", "jsonb", "bytea"})
_NO_ORDER = frozenset({"jsonb", "bytea"})
_Arguments = Mapping[str, Argument]


class StepRules:
    """Rules of the steps of one workflow, whose order has no error. Paths begin with `steps`."""

    def __init__(
        self,
        workflow: Workflow,
        resources: Iterable[AgentResource],
        grants: Sequence[Grant] | None,
        *,
        is_complete: bool = True,
        unread: Collection[Path] = (),
    ) -> None:
        """grants: None when they are unknown.

        is_complete: without it, steps or labels are missing; order and trust, which follow from them, are not checked.
        unread: paths of parts with errors, which stand for anything.
        """
        self._workflow = workflow
        self._grants = grants
        self._fields = Fields.of(workflow, resources)
        everything = frozenset(step.name for step in workflow.steps if has_fields(step))
        self._is_complete = is_complete
        self._unread = frozenset(unread)
        self._heads = heads(workflow) if is_complete else {}
        self._before = (
            available(workflow) if is_complete else dict.fromkeys((each.name for each in workflow.steps), everything)
        )

    def errors(self) -> Iterator[PartDiagnostic]:
        """Yields every error."""
        for step in self._workflow.steps:
            path = ("steps", step.name)
            match step:
                case ComputeStep():
                    yield from self._compute(step)
                case ChooseStep():
                    yield from self._choose(step)
                case _:
                    resource = self._fields.resources.get(step.resource)
                    if resource is None:
                        yield PartDiagnostic((*path, str(verb_of(step))), f"there is no resource {step.resource}")
                    else:
                        yield from self._rows(step, resource)
            yield from _slots(step)

    def _compute(self, step: ComputeStep) -> Iterator[PartDiagnostic]:
        path = ("steps", step.name, "compute")
        if not step.values and not step.conditions:
            yield PartDiagnostic(path, "it computes nothing")
        for name in sorted(step.values.keys() & step.conditions.keys()):
            yield PartDiagnostic((*path, name), f"{name} is computed twice")
        for name, argument in step.values.items():
            found = self._fields.field(step.name, name)
            faults = list(references(argument, self._fields, self._before[step.name]))
            if found is None and not faults:
                faults = [f"{name} has no type: NULL alone, or a value that is computed from itself"]
            elif found is not None:
                faults = list(argument_errors(argument, found, self._fields, self._before[step.name]))
            for reason in faults:
                yield PartDiagnostic((*path, name), reason)
        for name, condition in step.conditions.items():
            yield from self._condition(condition, {}, step, (*path, name, "when"))

    def _choose(self, step: ChooseStep) -> Iterator[PartDiagnostic]:
        path = ("steps", step.name, "choose")
        faults = [
            each
            for option in step.options
            for each in self._condition(option.when, {}, step, (*path, option.name, "when"))
        ]
        yield from faults
        if not faults:
            for reason in choice_errors(step, self._heads.get(step.name)):
                yield PartDiagnostic(path, reason)

    def _condition(
        self, condition: Condition | None, row: Mapping[str, ResourceColumn], step: Step, path: tuple[str, ...]
    ) -> Iterator[PartDiagnostic]:
        if condition is None:
            return
        columns = dict(row)
        for name in self._before[step.name]:
            columns |= {f"{name}.{field}": column for field, column in self._fields.fields(name).items()}
        for _, reason in condition_errors(condition, columns):
            yield PartDiagnostic(path, reason)

    def _rows(self, step: ReadStep | Write, resource: AgentResource) -> Iterator[PartDiagnostic]:
        """Yields the errors of a step that reads or changes rows."""
        path = ("steps", step.name)
        columns = {column.name: column for column in resource.columns}
        faults = list(self._named(step, resource, columns))
        yield from faults
        if not isinstance(step, ReadStep):
            yield from self._compensation(step)
        if faults:
            return
        for part in ("where", "set"):
            for name, argument in _part(step, part).items():
                yield from self._argument(argument, columns[name], step, part)
        yield from self._permitted(step, resource)
        if isinstance(step, ReadStep):
            return
        yield from self._condition(
            step.approval.when if step.approval else None, columns, step, (*path, "approval", "when")
        )
        yield from self._untrusted(step, columns)

    def _argument(self, argument: Argument, column: ResourceColumn, step: Step, part: str) -> Iterator[PartDiagnostic]:
        path = ("steps", step.name, part, column.name)
        if path in self._unread:
            return
        if part == "where":  # a field that is NULL equals no row; NULL itself would be a mistake
            is_field = not isinstance(argument, Slot) and self._fields.type_of(argument) is not None
            column = column.model_copy(update={"nullable": is_field})
            if column.type in _NO_WHERE:
                yield PartDiagnostic(path, f"{column.name} is {column.type}; `where` compares no such column")
        for reason in argument_errors(argument, column, self._fields, self._before[step.name]):
            yield PartDiagnostic(path, reason)
        for reason in self._in_clear(argument, column):
            yield PartDiagnostic(path, reason)

    def _in_clear(self, argument: Argument, column: ResourceColumn) -> Iterator[str]:
        """Yields why facts would have a personal value in clear: they seal the values of columns with the label."""
        found = self._fields.type_of(argument)
        if found is None or found.personal == column.personal:
            return
        if found.personal:
            yield (
                f"a personal value goes into {column.name}, whose facts are in clear; "
                f"give {column.name} the label `personal`"
            )
        elif not isinstance(argument, Slot) and self._fields.is_asked(argument):
            yield f"{column.name} is personal, and the facts of the computed slot are in clear; write the slot here"

    def _named(
        self, step: ReadStep | Write, resource: AgentResource, columns: Mapping[str, ResourceColumn]
    ) -> Iterator[PartDiagnostic]:
        """Yields the names of columns that do not exist or may not be used, and those that are missing."""
        path = ("steps", step.name)
        named = [("where", name) for name in _part(step, "where")] + [("set", name) for name in _part(step, "set")]
        if isinstance(step, ReadStep):
            named += [("columns", name) for name in step.columns] + [("order", each.column) for each in step.order]
        for part, name in named:
            place = (*path, part, name)
            if name not in columns:
                yield PartDiagnostic(place, f"{resource.name} has no column {name}, only {', '.join(columns)}")
            elif columns[name].hidden:
                yield PartDiagnostic(place, f"{resource.name}.{name} is hidden; no step may name it")
            elif part == "order" and columns[name].type in _NO_ORDER:
                yield PartDiagnostic(place, f"{name} is {columns[name].type} and has no order")
        key = resource.columns[0].name
        match step:
            case ReadStep():
                if not step.columns:
                    yield PartDiagnostic((*path, "columns"), "it reads no columns")
            case CreateStep():
                missing = [name for name, column in columns.items() if not column.nullable and name not in step.set]
                if missing:
                    reason = f"{resource.name} needs a value of {', '.join(missing)}; NULL is refused there"
                    yield PartDiagnostic((*path, "set"), reason)
            case UpdateStep() | DeleteStep():
                if not step.where:
                    yield PartDiagnostic(
                        (*path, "where"), "it needs a condition: all rows of a table are never changed"
                    )
                if isinstance(step, UpdateStep) and not step.set:
                    yield PartDiagnostic((*path, "set"), "it changes no column")
                if isinstance(step, UpdateStep) and key in step.set:
                    yield PartDiagnostic((*path, "set", key), f"{key} is the key of {resource.name} and never changes")

    def _permitted(self, step: ReadStep | Write, resource: AgentResource) -> Iterator[PartDiagnostic]:
        """Yields when no grant permits all columns of the step, or none can ever apply to its constants."""
        if self._grants is None:
            return
        verb = verb_of(step)
        place = ("steps", step.name, str(verb))
        named = named_columns(step)
        applying = [each for each in self._grants if applies(each, self._workflow.role, verb, resource.name)]
        permits = [
            each for each in applying if each.effect is Effect.PERMIT and named <= set(each.columns[resource.name])
        ]
        role = self._workflow.role
        if not permits:
            reason = f"no grant permits the role {role} to {verb} {resource.name} with {', '.join(sorted(named))}"
            yield PartDiagnostic(place, f"{reason}; extend one in grants.cedar")
            return
        row: dict[str, Known] = {column.name: Known() for column in resource.columns if not column.nullable}
        if isinstance(step, CreateStep):
            row |= dict.fromkeys((each.name for each in resource.columns if each.name not in step.set), NULL)
        for part in ("where", "set"):
            for name, argument in _part(step, part).items():
                found = None if (*place[:2], part, name) in self._unread else known(argument)
                row.pop(name, None)
                row |= {name: found} if found is not None else {}
        if all(True not in outcomes(each.condition, row) for each in permits):
            yield PartDiagnostic(place, f"no row of this step can satisfy {' or '.join(each.id for each in permits)}")
        for each in applying:
            if each.effect is Effect.FORBID and False not in outcomes(each.condition, row):
                yield PartDiagnostic(place, f"{each.id} forbids every row of this step")

    def _compensation(self, step: Write) -> Iterator[PartDiagnostic]:
        path = ("steps", step.name, "compensation")
        found = step.compensation
        if path in self._unread:
            return
        if (found is None) != step.irreversible:
            reason = "write `irreversible: true`, or how to undo it: `compensation`" if found is None else "it has both"
            yield PartDiagnostic(("steps", step.name), f"irreversible or compensation: {reason}")
        if found is None:
            return
        resource = self._fields.resources.get(found.resource)
        if resource is None or found.verb is Verb.READ:
            yield PartDiagnostic(path, f"a compensation changes rows of a resource, not of {found.resource}")
            return
        columns = {column.name: column for column in resource.columns}
        is_create = found.verb is Verb.CREATE
        if bool(found.where) == is_create or bool(found.set) == (found.verb is Verb.DELETE):
            yield PartDiagnostic(path, "a create has `set`, an update `where` and `set`, a delete `where`")
        for part, arguments in (("where", found.where), ("set", found.set)):
            for name, argument in arguments.items():
                place = (*path, part, name)
                if name not in columns or columns[name].hidden:
                    yield PartDiagnostic(place, f"{resource.name} has no column {name} that may be named")
                elif isinstance(argument, Slot):
                    yield PartDiagnostic(place, "a compensation has no slots: no model is asked")
                else:
                    for reason in argument_errors(argument, columns[name], self._fields, self._before[step.name]):
                        yield PartDiagnostic(place, reason)
                    for reason in self._in_clear(argument, columns[name]):
                        yield PartDiagnostic(place, reason)

    def _untrusted(self, step: Write, columns: Mapping[str, ResourceColumn]) -> Iterator[PartDiagnostic]:
        """Yields the values that could need an approval in a step that declares none."""
        if step.approval is not None or not self._is_complete:
            return
        bound = self._bound_inputs(step)
        for part in ("where", "set"):
            for name, argument in _part(step, part).items():
                if part == "set" and columns[name].untrusted:
                    continue
                if not self._fields.is_trusted(argument, bound):
                    target = "`where`" if part == "where" else f"{name}, which has no label `untrusted`"
                    yield PartDiagnostic(
                        ("steps", step.name, part, name),
                        f"an untrusted value goes into {target}: bind it, give it limits, or declare `approval`",
                    )

    def _bound_inputs(self, step: Step) -> frozenset[str]:
        """Returns the inputs that equal a trusted field of a row that has been read before the step."""
        reads = [self._fields.reads[name] for name in self._before[step.name] if name in self._fields.reads]
        return frozenset(
            argument.name
            for read in reads
            for name, argument in read.where.items()
            if isinstance(argument, InputValue)
            and (column := self._fields.column(read.resource, name)) is not None
            and not column.untrusted
        )


def _slots(step: Step) -> Iterator[PartDiagnostic]:
    known: set[str] = set()
    for part in ("where", "set", "values"):
        for name, argument in _part(step, part).items():
            path = ("steps", step.name, "compute" if part == "values" else part, name)
            if isinstance(argument, Slot) and (name in RESERVED_SLOTS or name in known):
                yield PartDiagnostic(path, f"a slot cannot be named {name}: the tool has such an argument already")
            known |= {name} if isinstance(argument, Slot) else set()


def _part(step: Step, part: str) -> _Arguments:
    found: _Arguments = getattr(step, part, {})
    return found


def verb_of(step: ReadStep | Write) -> Verb:
    """Returns the action on rows of a step."""
    return Verb(step.kind)


def named_columns(step: ReadStep | Write) -> frozenset[str]:
    """Returns the columns that a step names: what it reads, compares, sorts by and sets."""
    read = {*step.columns, *(each.column for each in step.order)} if isinstance(step, ReadStep) else set()
    return frozenset({*read, *_part(step, "where"), *_part(step, "set")})


def applies(grant: Grant, role: str, verb: Verb, resource: str) -> bool:
    """Returns whether a grant is about this action of the role."""
    return grant.role in {None, role} and verb in grant.verbs and resource in grant.resources
