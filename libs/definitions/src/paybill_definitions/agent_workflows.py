"""Reads a workflow of a bundle: one YAML file, in canonical form with every default written out."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from paybill_contracts.agent_bundles import (
    AgentResource,
    Amounts,
    ApprovalRule,
    Argument,
    ChooseStep,
    Compensation,
    ComputeStep,
    CreateStep,
    DeleteStep,
    Effect,
    FixedValue,
    Grant,
    InputValue,
    Option,
    ReadStep,
    SortOrder,
    Step,
    UpdateStep,
    Verb,
    Workflow,
    WorkflowInput,
    WorkflowLimits,
)
from paybill_contracts.agent_expressions import Condition

from paybill_definitions.agent_arguments import argument, arguments, fault, is_reference
from paybill_definitions.agent_fields import Computed, Fields, used_steps
from paybill_definitions.agent_workflow_conditions import Conditions
from paybill_definitions.agent_workflow_file import (
    KINDS,
    WRITES,
    AmountsPart,
    ApprovalPart,
    ChoosePart,
    CompensationPart,
    ComputePart,
    CreatePart,
    DeletePart,
    LimitsPart,
    ReadPart,
    StepPart,
    UpdatePart,
    WhenPart,
    WorkflowFile,
    WritePart,
    mended,
)
from paybill_definitions.yaml_lines import (
    Diagnostic,
    InvalidDocumentError,
    Lines,
    Path,
    parsed,
    together,
    validated,
)

END = "end"
"""Name that ends a run, instead of a next step."""

P = TypeVar("P")
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class WorkflowText:
    """A workflow as far as it could be read. faults: every error in the text; with any, `workflow` is incomplete.

    workflow: without the steps that cannot be checked; None when nothing of it can be. unread: paths of the parts with
    an error, such as ("steps", "propose", "set", "amount"), of which no rule reports anything.
    """

    workflow: Workflow | None
    lines: Lines
    faults: tuple[Diagnostic, ...]
    unread: frozenset[Path] = frozenset()


def read_workflow(text: str, resources: Sequence[AgentResource], grants: Sequence[Grant] | None) -> WorkflowText:
    """Returns the workflow, the line of each part, and every error. grants: None when they have errors themselves."""
    try:
        raw, lines, repeated = parsed(text, refuses_aliases=True)
    except InvalidDocumentError as error:
        return WorkflowText(None, {}, error.diagnostics)
    faults, wrong = repeated, frozenset[Path]()
    source: WorkflowFile | None
    try:
        source = validated(WorkflowFile, raw, lines)
    except InvalidDocumentError as error:
        faults += error.diagnostics
        source, wrong = mended(raw)
    if source is None:
        return WorkflowText(None, lines, faults)
    parts = _Workflow(source, lines, resources, None if ("role",) in wrong else grants, wrong)
    workflow = parts.workflow()
    return WorkflowText(workflow, lines, (*faults, *parts.faults), frozenset(parts.unread))


class _Workflow:
    """Reads one file. faults: all errors so far; unread: the paths of the parts with an error."""

    def __init__(
        self,
        source: WorkflowFile,
        lines: Lines,
        resources: Sequence[AgentResource],
        grants: Sequence[Grant] | None,
        wrong: frozenset[Path],
    ) -> None:
        """wrong: paths of parts that are not in `source` because they have errors."""
        self._source = source
        self._lines = lines
        self._resources = {each.name: each for each in resources}
        self._grants = grants
        self.unread = {*wrong}
        self.faults: list[Diagnostic] = []

    def workflow(self) -> Workflow:
        """Returns the workflow without the steps that have an error, or use one that has."""
        source = self._source
        inputs = dict(self._each(self._input, source.input))
        self.unread |= {("input", name) for name in source.input.keys() - inputs.keys()}
        once = dict(self._each(self._once, source.once))
        self.unread |= {("once",)} if len(once) < len(set(source.once)) else set()
        models = dict(self._each(self._model, source.steps))
        reads = dict(
            self._each(
                lambda name: self._read(name, models[name]),
                [name for name, each in models.items() if isinstance(each, ReadPart)],
            )
        )
        computes = [name for name, each in models.items() if isinstance(each, ComputePart)]
        computed = dict(self._each(self._computed, computes))
        known = {*reads, *computed, *(name for name in models if name not in {*computes, *reads})}
        unread = {name for name, each in models.items() if isinstance(each, ReadPart) and name not in reads}
        broken = ({*source.steps} - known) | unread | {str(each[1]) for each in self.unread if each[0] == "steps"}
        if ("role",) in self.unread or any(each[0] == "input" for each in self.unread):
            broken |= {*source.steps}  # each may use them
        if broken:
            broken |= {*computes}  # their types may follow from what is broken
        single = {name: step for name, step in reads.items() if step.one}
        fields = Fields(self._resources, inputs, single, computed)
        conditions = Conditions(fields, tuple(models), self._lines, broken)
        steps = dict(
            self._each(
                lambda name: reads.get(name) or self._step(name, models[name], computed, conditions),
                [name for name in models if name not in unread and (name in computed or name not in computes)],
            )
        )
        return Workflow(
            name=source.workflow,
            role=source.role,
            description=source.description,
            inputs=tuple(inputs[name] for name in sorted(inputs)),
            once=tuple(once.values()),
            limits=_limits(source.limits),
            steps=tuple(_sound(list(steps.values()), broken)),
        )

    def _each(self, part: Callable[[str], P], names: Iterable[str]) -> Iterator[tuple[str, P]]:
        """Yields the part of each name; one with an error is reported instead."""
        for name in names:
            try:
                yield name, part(name)
            except InvalidDocumentError as error:
                self.faults += error.diagnostics

    def _read_part(self, path: Path, part: Callable[[], P], default: D) -> P | D:
        """Returns a part of a step; one with an error is reported and replaced, so that the others are checked."""
        try:
            return part()
        except InvalidDocumentError as error:
            self.faults += error.diagnostics
            self.unread.add(path)
            return default

    def _input(self, name: str) -> WorkflowInput:
        text = self._source.input[name]
        if not is_reference(text):
            raise fault(self._lines, ("input", name), "write `table.column`, whose type the input has")
        resource, _, column = text.partition(".")
        return WorkflowInput(name=name, resource=resource, column=column)

    def _once(self, text: str) -> InputValue:
        path = ("once", self._source.once.index(text))
        found = argument(text, self._lines, path)
        if not isinstance(found, InputValue):
            raise fault(self._lines, path, "the business key is made of inputs, such as input.ticket")
        return found

    def _model(self, name: str) -> StepPart | ChoosePart:
        raw = self._source.steps[name]
        kinds = [each for each in KINDS if each in raw]
        if len(kinds) != 1:
            raise fault(self._lines, ("steps", name), f"a step has exactly one of {', '.join(KINDS)}")
        return validated(KINDS[kinds[0]], raw, self._lines, ("steps", name))

    def _next(self, name: str, step: StepPart) -> str:
        names = [*self._source.steps, END]
        return step.next or names[names.index(name) + 1]

    def _arguments(self, name: str, part: str, values: Mapping[str, Any]) -> dict[str, Argument]:
        path = ("steps", name, part)
        return {
            each: self._read_part((*path, each), partial(argument, value, self._lines, (*path, each)), _NOTHING)
            for each, value in values.items()
        }

    def _read(self, name: str, step: StepPart | ChoosePart) -> ReadStep:
        if not isinstance(step, ReadPart):
            raise TypeError(f"{name} is no read")
        where = self._arguments(name, "where", step.where)
        limit = self._limit(name, step)
        order = tuple(SortOrder(column=each.lstrip("-"), descending=each[0] == "-") for each in step.order)
        common: dict[str, Any] = {
            "next": self._next(name, step),
            "repeat": step.repeat,
            "one": step.one,
            "order": order,
        }
        columns = self._columns(name, step)
        return ReadStep(name=name, resource=step.read, where=where, limit=limit, columns=columns, **common)

    def _columns(self, name: str, step: ReadPart) -> tuple[str, ...]:
        resource = self._resource(name, "read", step.read)
        return tuple(sorted(set(step.columns))) if step.columns else self._permitted(name, resource)

    def _resource(self, name: str, verb: str, table: str) -> AgentResource:
        if table not in self._resources:
            known = ", ".join(sorted(self._resources))
            raise fault(self._lines, ("steps", name, verb), f"there is no resource {table}, only {known}")
        return self._resources[table]

    def _permitted(self, name: str, resource: AgentResource) -> tuple[str, ...]:
        """Returns the columns that the role may read."""
        if self._grants is None:
            return tuple(sorted(each.name for each in resource.columns if not each.hidden))
        columns: set[str] = set()
        for grant in self._grants:
            if grant.effect is Effect.PERMIT and grant.role in {None, self._source.role} and Verb.READ in grant.verbs:
                columns.update(grant.columns.get(resource.name, ()))
        if not columns:
            reason = f"no grant permits the role {self._source.role} to read {resource.name}; add one to grants.cedar"
            raise fault(self._lines, ("steps", name, "read"), reason)
        return tuple(sorted(columns))

    def _limit(self, name: str, step: "ReadPart | UpdatePart | DeletePart") -> int:
        path = ("steps", name, "limit")
        if step.one and step.limit is not None:
            self.faults += fault(self._lines, path, "`one` is a limit of 1 already; remove one of them").diagnostics
        if not step.one and step.limit is None:
            reason = "it needs `one: true`, or `limit`: its greatest number of rows"
            self.faults += fault(self._lines, path[:2], reason).diagnostics
        return step.limit or 1

    def _computed(self, name: str) -> Computed:
        step = validated(ComputePart, self._source.steps[name], self._lines, ("steps", name))
        conditions = [each for each, value in step.compute.items() if isinstance(value, dict) and "when" in value]
        values = {each: value for each, value in step.compute.items() if each not in conditions}
        found = arguments(values, self._lines, ("steps", name, "compute"))
        return Computed(found, dict.fromkeys(conditions))

    def _step(
        self, name: str, step: StepPart | ChoosePart, computed: Mapping[str, Computed], conditions: "Conditions"
    ) -> Step:
        path = ("steps", name)
        if isinstance(step, ChoosePart):
            choose = step.choose
            whens = together(
                **{
                    each: partial(conditions.of, option.when, None, (*path, "choose", each, "when"))
                    for each, option in choose.items()
                }
            )
            options = tuple(Option(name=each, next=choose[each].next, when=when) for each, when in whens.items())
            return ChooseStep(name=name, next=END, repeat=step.repeat, options=options)
        common: dict[str, Any] = {"name": name, "next": self._next(name, step), "repeat": step.repeat}
        if isinstance(step, ComputePart):
            compute = step.compute

            def computed_condition(each: str) -> Condition:
                place = (*path, "compute", each)
                text = validated(WhenPart, compute[each], self._lines, place).when
                return conditions.required(text, None, (*place, "when"))

            found = together(**{each: partial(computed_condition, each) for each in computed[name].conditions})
            return ComputeStep(**common, values=dict(computed[name].values), conditions=found)
        return self._write(name, step, common, conditions)

    def _write(self, name: str, step: StepPart, common: Mapping[str, Any], conditions: "Conditions") -> Step:
        if not isinstance(step, WritePart):
            raise TypeError(f"{name} is no write")
        write, verb, *names = next(each for part, *each in _WRITES if isinstance(step, part))
        table = getattr(step, verb)
        path, undo = ("steps", name), step.compensation
        known = self._resources.get(table)
        approval = partial(self._approval, name, step.approval, known, conditions)
        parts: dict[str, Any] = {each: self._arguments(name, each, getattr(step, each)) for each in names}
        parts["approval"] = self._read_part((*path, "approval"), approval, None)
        if undo is not None:
            compensation = partial(self._compensation, name, undo)
            parts["compensation"] = self._read_part((*path, "compensation"), compensation, None)
        if isinstance(step, UpdatePart | DeletePart):
            parts["limit"] = self._limit(name, step)
        resource = self._resource(name, verb, table).name
        found: Step = write(**common, irreversible=step.irreversible, resource=resource, **parts)
        return found

    def _approval(
        self, name: str, part: ApprovalPart | None, resource: AgentResource | None, conditions: "Conditions"
    ) -> ApprovalRule | None:
        if part is None or resource is None:
            return None
        when = conditions.of(part.when, resource, ("steps", name, "approval", "when"))
        return ApprovalRule(when=when, within_minutes=part.within_minutes)

    def _compensation(self, name: str, source: CompensationPart) -> Compensation:
        path = ("steps", name, "compensation")
        verbs = {verb: table for verb in WRITES if (table := getattr(source, verb)) is not None}
        if len(verbs) != 1:
            raise fault(self._lines, path, f"a compensation has exactly one of {', '.join(WRITES)}")
        ((verb, table),) = verbs.items()
        found = together(
            where=partial(arguments, source.where, self._lines, (*path, "where")),
            set=partial(arguments, source.set, self._lines, (*path, "set")),
        )
        return Compensation(verb=Verb(verb), resource=table, **found)


_NOTHING = FixedValue(value=None)
"""Stands for an argument with an error."""

_WRITES: Sequence[tuple[Any, ...]] = (
    (CreatePart, CreateStep, "create", "set"),
    (UpdatePart, UpdateStep, "update", "where", "set"),
    (DeletePart, DeleteStep, "delete", "where"),
)


def _sound(steps: list[Step], broken: Collection[str]) -> list[Step]:
    """Returns the steps that use no broken one, directly or through others."""
    wrong = {*broken}
    while found := {step.name for step in steps if step.name not in wrong and wrong & used_steps(step)}:
        wrong |= found
    return [step for step in steps if step.name not in wrong]


def _limits(source: LimitsPart) -> WorkflowLimits:
    return WorkflowLimits(
        run=_amounts(source),
        minutes=source.minutes,
        agent_day=_amounts(source.agent_day) if source.agent_day else None,
        tenant_day=_amounts(source.tenant_day) if source.tenant_day else None,
    )


def _amounts(source: AmountsPart) -> Amounts:
    return Amounts(calls=source.calls, rows=source.rows, sums=source.sum)
