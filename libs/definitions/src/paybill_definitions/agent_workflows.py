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
from pydantic import ValidationError

from paybill_definitions.agent_arguments import argument, arguments, fault, is_reference
from paybill_definitions.agent_cedar import expression, step_schema, validate
from paybill_definitions.agent_conditions import errors as condition_errors
from paybill_definitions.agent_conditions import names as condition_names
from paybill_definitions.agent_fields import Computed, Fields, used_steps
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
)
from paybill_definitions.cedar_text import CedarError
from paybill_definitions.yaml_lines import (
    Diagnostic,
    InvalidDocumentError,
    Lines,
    Path,
    line_of,
    plain,
    together,
    validated,
)

END = "end"
"""Name that ends a run, instead of a next step."""

P = TypeVar("P")
_HEAD: Mapping[str, Any] = {
    "workflow": "unknown",
    "role": "unknown",
    "limits": {"calls": 0, "rows": 0, "minutes": 1},
}
"""Relocations required parts of the head that are wrong, so that the steps are checked in the same run."""


@dataclass(frozen=True, slots=True)
class WorkflowText:
    """A workflow as far as it could be read. faults: every error in the text; with any, `workflow` is incomplete.

    workflow: without the steps that have an error or use a step with one; None when nothing of it can be checked.
    """

    workflow: Workflow | None
    lines: Lines
    faults: tuple[Diagnostic, ...]


def read_workflow(text: str, resources: Sequence[AgentResource], grants: Sequence[Grant] | None) -> WorkflowText:
    """Returns the workflow, the line of each part, and every error. grants: None when they have errors themselves."""
    try:
        raw, lines = plain(text, refuses_aliases=True)
    except InvalidDocumentError as error:
        return WorkflowText(None, {}, error.diagnostics)
    try:
        source = validated(WorkflowFile, raw, lines)
    except InvalidDocumentError as error:
        mended, wrong = _mended(raw)
        if mended is None:
            return WorkflowText(None, lines, error.diagnostics)
        parts = _Workflow(mended, lines, resources, None if "role" in wrong else grants, wrong)
        return WorkflowText(parts.workflow(), lines, (*error.diagnostics, *parts.faults))
    parts = _Workflow(source, lines, resources, grants)
    return WorkflowText(parts.workflow(), lines, tuple(parts.faults))


def _mended(raw: Any) -> tuple[WorkflowFile | None, frozenset[str]]:
    """Returns the file without its wrong parts, and their names, those of inputs and steps among them."""
    try:
        return WorkflowFile.model_validate(raw), frozenset()
    except ValidationError as error:
        locations = [each["loc"] for each in error.errors()]
    if not isinstance(raw, dict) or {("input",), ("steps",)} & set(locations):
        return None, frozenset()
    nested = {(str(place[0]), str(place[1])) for place in locations if place[0] in {"input", "steps"}}
    wrong = {str(place[0]) for place in locations} - {"input", "steps"}
    kept = {name: value for name, value in raw.items() if name in WorkflowFile.model_fields and name not in wrong}
    for part in {part for part, _ in nested}:
        kept[part] = {name: value for name, value in kept[part].items() if (part, name) not in nested}
    if not kept.get("steps"):
        return None, frozenset()
    mended = WorkflowFile.model_validate({**_HEAD, **kept})
    return mended, frozenset({*wrong, *(name if part == "steps" else part for part, name in nested)})


class _Workflow:
    """Reads one file. faults: all errors so far; a part with an error is left out."""

    def __init__(
        self,
        source: WorkflowFile,
        lines: Lines,
        resources: Sequence[AgentResource],
        grants: Sequence[Grant] | None,
        wrong: frozenset[str] = frozenset(),
    ) -> None:
        """wrong: names of parts and steps that are not in `source` because they have errors."""
        self._source = source
        self._lines = lines
        self._resources = {each.name: each for each in resources}
        self._grants = grants
        self._wrong = wrong
        self.faults: list[Diagnostic] = []

    def workflow(self) -> Workflow:
        """Returns the workflow without the steps that have an error, or use one that has."""
        source = self._source
        inputs = dict(self._each(self._input, source.input))
        once = dict(self._each(self._once, source.once))
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
        broken = ({*source.steps} - known) | unread | self._wrong
        if inputs.keys() != source.input.keys() or self._wrong & {"role", "input"}:
            broken |= {*source.steps}  # each may use them
        if broken:
            broken |= {*computes}  # their types may follow from what is broken
        single = {name: step for name, step in reads.items() if step.one}
        fields = Fields(self._resources, inputs, single, computed)
        conditions = _Conditions(fields, tuple(models), self._lines, broken)
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
        return arguments(values, self._lines, ("steps", name, part))

    def _read(self, name: str, step: StepPart | ChoosePart) -> ReadStep:
        if not isinstance(step, ReadPart):
            raise TypeError(f"{name} is no read")
        found = together(
            columns=lambda: self._columns(name, step),
            where=lambda: self._arguments(name, "where", step.where),
            limit=lambda: self._limit(name, step),
        )
        order = tuple(SortOrder(column=each.lstrip("-"), descending=each[0] == "-") for each in step.order)
        common: dict[str, Any] = {
            "next": self._next(name, step),
            "repeat": step.repeat,
            "one": step.one,
            "order": order,
        }
        return ReadStep(name=name, resource=step.read, **common, **found)

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
        if step.one and step.limit is not None:
            raise fault(self._lines, ("steps", name, "limit"), "`one` is a limit of 1 already; remove one of them")
        if not step.one and step.limit is None:
            raise fault(self._lines, ("steps", name), "it needs `one: true`, or `limit`: its greatest number of rows")
        return step.limit or 1

    def _computed(self, name: str) -> Computed:
        step = validated(ComputePart, self._source.steps[name], self._lines, ("steps", name))
        conditions = [each for each, value in step.compute.items() if isinstance(value, dict) and "when" in value]
        values = {each: value for each, value in step.compute.items() if each not in conditions}
        return Computed(self._arguments(name, "compute", values), dict.fromkeys(conditions))

    def _step(
        self, name: str, step: StepPart | ChoosePart, computed: Mapping[str, Computed], conditions: "_Conditions"
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

    def _write(self, name: str, step: StepPart, common: Mapping[str, Any], conditions: "_Conditions") -> Step:
        if not isinstance(step, WritePart):
            raise TypeError(f"{name} is no write")
        write, verb, *names = next(each for part, *each in _WRITES if isinstance(step, part))
        table = getattr(step, verb)
        parts: dict[str, Callable[[], Any]] = {
            "resource": lambda: self._resource(name, verb, table).name,
            "approval": lambda: self._approval(name, step.approval, self._resources.get(table), conditions),
            "compensation": lambda: step.compensation and self._compensation(name, step.compensation),
            **{each: partial(self._arguments, name, each, getattr(step, each)) for each in names},
        }
        if isinstance(step, UpdatePart | DeletePart):
            parts["limit"] = partial(self._limit, name, step)
        found: Step = write(**common, irreversible=step.irreversible, **together(**parts))
        return found

    def _approval(
        self, name: str, part: ApprovalPart | None, resource: AgentResource | None, conditions: "_Conditions"
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


_WRITES: Sequence[tuple[Any, ...]] = (
    (CreatePart, CreateStep, "create", "set"),
    (UpdatePart, UpdateStep, "update", "where", "set"),
    (DeletePart, DeleteStep, "delete", "where"),
)


class _Conditions:
    """Reads conditions over the fields of a workflow and, in a write, over the columns of its row."""

    def __init__(self, fields: Fields, steps: Sequence[str], lines: Lines, broken: Collection[str]) -> None:
        """broken: steps with errors; a condition that uses one cannot be checked."""
        self._fields = {step: found for step in steps if (found := fields.fields(step))}
        self._lines = lines
        self._broken = frozenset(broken)

    def of(self, text: str | None, resource: AgentResource | None, path: Path) -> Condition | None:
        """Returns the condition of `text`; None without one. Raises InvalidDocumentError."""
        return None if text is None else self.required(text, resource, path)

    def required(self, text: str, resource: AgentResource | None, path: Path) -> Condition:
        """Returns the condition of `text`. Raises InvalidDocumentError."""
        columns = {each.name: each for each in (resource.columns if resource else ())}
        columns |= {f"{step}.{name}": each for step, found in self._fields.items() for name, each in found.items()}
        line = line_of(self._lines, path)
        try:
            policy, condition = expression(text, resource)
            if self._broken & {name.partition(".")[0] for name in condition_names(condition) if "." in name}:
                return condition
            reasons = [reason for _, reason in condition_errors(condition, columns)]
            if not reasons:
                fields = {step: tuple(found.values()) for step, found in self._fields.items()}
                reasons = [each.reason for each in validate(policy, step_schema(resource, fields))]
        except CedarError as error:
            raise InvalidDocumentError(Diagnostic(line, f"{text:.80}: {error.reason}")) from None
        if reasons:
            raise InvalidDocumentError(*(Diagnostic(line, f"{text:.80}: {reason}") for reason in reasons))
        return condition


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
