"""Reads a workflow of a bundle: one YAML file, in canonical form with every default written out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

from paybill_definitions.agent_arguments import argument, arguments, fault, is_reference
from paybill_definitions.agent_cedar import expression, step_schema, validate
from paybill_definitions.agent_conditions import errors as condition_errors
from paybill_definitions.agent_fields import Computed, Fields
from paybill_definitions.agent_workflow_file import (
    KINDS,
    WRITES,
    AmountsPart,
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
from paybill_definitions.yaml_lines import Diagnostic, InvalidDocumentError, Lines, Path, line_of, read, validated

END = "end"
"""Name that ends a run, instead of a next step."""

P = TypeVar("P")
END = "end"
"""Name that ends a run, instead of a next step."""


def read_workflow(text: str, resources: Sequence[AgentResource], grants: Sequence[Grant]) -> tuple[Workflow, Lines]:
    """Returns the workflow and the line of each part. Raises InvalidDocumentError with every error."""
    source, lines = read(WorkflowFile, text, refuses_aliases=True)
    parts = _Workflow(source, lines, resources, grants)
    workflow = parts.workflow()
    if parts.faults or workflow is None:
        raise InvalidDocumentError(*parts.faults)
    return workflow, lines


class _Workflow:
    """Reads one file. faults: all errors so far; a part with an error is left out."""

    def __init__(
        self, source: WorkflowFile, lines: Lines, resources: Sequence[AgentResource], grants: Sequence[Grant]
    ) -> None:
        self._source = source
        self._lines = lines
        self._resources = {each.name: each for each in resources}
        self._grants = grants
        self.faults: list[Diagnostic] = []

    def workflow(self) -> Workflow | None:
        """Returns the workflow; None when there are errors."""
        source = self._source
        inputs = dict(self._each(self._input, source.input))
        once = dict(self._each(self._once, source.once))
        models = dict(self._each(self._model, source.steps))
        reads = dict(
            self._each(self._read, {name: each for name, each in models.items() if isinstance(each, ReadPart)})
        )
        computes = {name: each.compute for name, each in models.items() if isinstance(each, ComputePart)}
        computed = dict(self._each(self._computed, computes))
        if self.faults:
            return None
        single = {name: step for name, step in reads.items() if step.one}
        fields = Fields(self._resources, inputs, single, computed)
        conditions = _Conditions(fields, tuple(models), self._lines)
        steps = dict(
            self._each(lambda name: reads.get(name) or self._step(name, models[name], computed, conditions), models)
        )
        if self.faults:
            return None
        return Workflow(
            name=source.workflow,
            role=source.role,
            description=source.description,
            inputs=tuple(inputs[name] for name in sorted(inputs)),
            once=tuple(once.values()),
            limits=_limits(source.limits),
            steps=tuple(steps.values()),
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

    def _read(self, name: str) -> ReadStep:
        step = validated(ReadPart, self._source.steps[name], self._lines, ("steps", name))
        resource = self._resource(name, "read", step.read)
        return ReadStep(
            name=name,
            next=self._next(name, step),
            repeat=step.repeat,
            resource=resource.name,
            where=self._arguments(name, "where", step.where),
            columns=tuple(sorted(set(step.columns))) if step.columns else self._permitted(name, resource),
            one=step.one,
            order=tuple(SortOrder(column=each.lstrip("-"), descending=each[0] == "-") for each in step.order),
            limit=self._limit(name, step),
        )

    def _resource(self, name: str, verb: str, table: str) -> AgentResource:
        if table not in self._resources:
            known = ", ".join(sorted(self._resources))
            raise fault(self._lines, ("steps", name, verb), f"there is no resource {table}, only {known}")
        return self._resources[table]

    def _permitted(self, name: str, resource: AgentResource) -> tuple[str, ...]:
        """Returns the columns that the role may read."""
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
            options = tuple(
                Option(
                    name=each, next=option.next, when=conditions.of(option.when, None, (*path, "choose", each, "when"))
                )
                for each, option in step.choose.items()
            )
            return ChooseStep(name=name, next=END, repeat=step.repeat, options=options)
        common: dict[str, Any] = {"name": name, "next": self._next(name, step), "repeat": step.repeat}
        if isinstance(step, ComputePart):
            whens = {
                each: validated(WhenPart, step.compute[each], self._lines, (*path, "compute", each)).when
                for each in computed[name].conditions
            }
            return ComputeStep(
                **common,
                values=dict(computed[name].values),
                conditions={
                    each: conditions.required(text, None, (*path, "compute", each, "when"))
                    for each, text in whens.items()
                },
            )
        return self._write(name, step, common, conditions)

    def _write(self, name: str, step: StepPart, common: Mapping[str, Any], conditions: "_Conditions") -> Step:
        if not isinstance(step, WritePart):
            raise TypeError(f"{name} is no write")
        verb, table = next((each, getattr(step, each)) for each in WRITES if hasattr(step, each))
        resource = self._resource(name, verb, table)
        approval = step.approval and ApprovalRule(
            when=conditions.of(step.approval.when, resource, ("steps", name, "approval", "when")),
            within_minutes=step.approval.within_minutes,
        )
        fields = {
            **common,
            "resource": table,
            "approval": approval,
            "irreversible": step.irreversible,
            "compensation": step.compensation and self._compensation(name, step.compensation),
        }
        match step:
            case CreatePart():
                return CreateStep(**fields, set=self._arguments(name, "set", step.set))
            case UpdatePart():
                where, changes = self._arguments(name, "where", step.where), self._arguments(name, "set", step.set)
                return UpdateStep(**fields, where=where, set=changes, limit=self._limit(name, step))
            case DeletePart():
                where = self._arguments(name, "where", step.where)
                return DeleteStep(**fields, where=where, limit=self._limit(name, step))
            case _:
                raise TypeError(f"{name} is no write")

    def _compensation(self, name: str, source: CompensationPart) -> Compensation:
        path = ("steps", name, "compensation")
        verbs = {verb: table for verb in WRITES if (table := getattr(source, verb)) is not None}
        if len(verbs) != 1:
            raise fault(self._lines, path, f"a compensation has exactly one of {', '.join(WRITES)}")
        ((verb, table),) = verbs.items()
        return Compensation(
            verb=Verb(verb),
            resource=table,
            where=arguments(source.where, self._lines, (*path, "where")),
            set=arguments(source.set, self._lines, (*path, "set")),
        )


class _Conditions:
    """Reads conditions over the fields of a workflow and, in a write, over the columns of its row."""

    def __init__(self, fields: Fields, steps: Sequence[str], lines: Lines) -> None:
        self._fields = {step: found for step in steps if (found := fields.fields(step))}
        self._lines = lines

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
            reasons = [reason for _, reason in condition_errors(condition, columns)]
            if not reasons:
                fields = {step: tuple(found.values()) for step, found in self._fields.items()}
                reasons = [each.reason for each in validate(policy, step_schema(resource, fields))]
        except CedarError as error:
            raise InvalidDocumentError(Diagnostic(line, f"{text:.80}: {error.reason}")) from None
        if reasons:
            raise InvalidDocumentError(*(Diagnostic(line, f"{text:.80}: {reason}") for reason in reasons))
        return condition


def _limits(source: LimitsPart) -> WorkflowLimits:
    return WorkflowLimits(
        run=_amounts(source),
        minutes=source.minutes,
        agent_day=_amounts(source.agent_day) if source.agent_day else None,
        tenant_day=_amounts(source.tenant_day) if source.tenant_day else None,
    )


def _amounts(source: AmountsPart) -> Amounts:
    return Amounts(calls=source.calls, rows=source.rows, sums=source.sum)
