"""Turns: which step of a run is next, what the run knows so far, and which options of a choice apply."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from paybill_contracts.agent_bundles import ChooseStep, ComputeStep, Option, ReadStep, Scalar, Step
from paybill_contracts.agent_runs import Fields

from paybill_agent_gateway.domain.answers import NextStep, PlainFields
from paybill_agent_gateway.domain.hidden import HiddenFields
from paybill_agent_gateway.domain.refusals import InvalidFieldError, InvalidInputError, StepExhaustedError
from paybill_agent_gateway.domain.runs import Done, Run
from paybill_agent_gateway.domain.trust import Origins
from paybill_agent_gateway.domain.values import Known, resolve, slots_of
from paybill_agent_gateway.domain.workflows import END, CompiledBundle, CompiledWorkflow

Opened = Callable[[Fields], PlainFields]
"""Returns fields of a fact in plain text."""

CHOICE = "choice"
"""Name of the argument with which a model chooses an option."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A run and its workflow. known: inputs and the last row of each step, in plain text."""

    run: Run
    bundle: CompiledBundle
    workflow: CompiledWorkflow
    known: Known
    opened: Opened

    @property
    def origins(self) -> Origins:
        """The rule of trust for this run."""
        return Origins(self.bundle, self.workflow, self.run.has_trusted_inputs, self.known.inputs, self.rows_of)

    def rows_of(self, step: str) -> list[PlainFields]:
        """Returns all rows that a step has read or written, in plain text."""
        return [self.opened(row) for done in self.run.done if done.step == step for row in done.rows]


def progress(run: Run, bundle: CompiledBundle, opened: Opened) -> Progress:
    """Returns what a run knows. opened: opens personal fields."""
    workflow = bundle.workflows[run.workflow]
    last = {done.step: done for done in run.done if len(done.rows) == 1 and is_single(workflow.steps[done.step])}
    rows = {name: opened(done.rows[0]) for name, done in last.items()}
    return Progress(run, bundle, workflow, Known(run.id, opened(run.inputs), rows), opened)


def is_single(step: Step) -> bool:
    """Returns whether later steps may name fields of this one: it has one row."""
    match step:
        case ReadStep():
            return step.one
        case ChooseStep():
            return False
        case _:
            return True


def next_step(workflow: CompiledWorkflow, done: Sequence[Done]) -> Step | None:
    """Returns the step that follows the actions that are done; None at the end of the workflow."""
    if not done:
        return workflow.first
    step = workflow.steps[done[-1].step]
    name = step.next
    if isinstance(step, ChooseStep):
        name = next(option.next for option in step.options if option.name == done[-1].chosen)
    return None if name == END else workflow.steps[name]


def hidden_names(step: Step, so_far: Progress) -> tuple[str, ...]:
    """Returns the names in the conditions of a step that the bundle in force hides: they decide nothing any more.

    so_far: with the labels in force. No bundle names a column that it hides itself.
    """
    return HiddenFields(so_far.workflow, so_far.bundle.columns).in_conditions(step)


def require_executions(step: Step, done: Sequence[Done]) -> None:
    """Raises StepExhaustedError when the step has been executed as often as it may."""
    if _executions(step, done) < 1:
        raise StepExhaustedError(f"{step.name} has been executed {step.repeat} times, which is the most in one run")


def options(step: ChooseStep, so_far: Progress) -> tuple[Option, ...]:
    """Returns the options of a choice that apply. An error in a condition does not apply."""
    row = condition_row(so_far)
    found = []
    for option in step.options:
        when = so_far.workflow.whens.get(f"{step.name}/{option.name}")
        target = so_far.workflow.steps.get(option.next)
        # A choice that leads to itself uses one execution now, and needs another one for what follows.
        left = 2 if option.next == step.name else 1
        if (when is None or when(row)) and (target is None or _executions(target, so_far.run.done) >= left):
            found.append(option)
    return tuple(found)


def chosen(step: ChooseStep, so_far: Progress, given: Mapping[str, object]) -> str:
    """Returns the name of the option of a choice: the only one that applies, or the one that is given.

    Raises InvalidInputError, InvalidFieldError.
    """
    names = [option.name for option in options(step, so_far)]
    if not names:
        raise InvalidFieldError(f"no option of {step.name} applies to the rows of this run")
    if not given and len(names) == 1:
        return names[0]
    if set(given) != {CHOICE} or given[CHOICE] not in names:
        raise InvalidInputError(f"{step.name} needs the argument {CHOICE}, one of: {', '.join(names)}")
    return str(given[CHOICE])


def computed(step: ComputeStep, so_far: Progress, slots: Mapping[str, Scalar | None]) -> PlainFields:
    """Returns the values of a step that computes. Raises InvalidFieldError for a condition that is an error."""
    values = {name: resolve(name, argument, so_far.known, slots) for name, argument in step.values.items()}
    row = condition_row(so_far)
    for name in step.conditions:
        found = so_far.workflow.whens[f"{step.name}/{name}"](row)
        if found is None:
            raise InvalidFieldError(
                f"{step.name}.{name} compares a field that is NULL; the row has to be completed first"
            )
        values[name] = found
    return values


def condition_row(so_far: Progress) -> dict[str, Scalar | None]:
    """Returns the values that conditions of the workflow may name, `step.field`; those without a value are None."""
    row: dict[str, Scalar | None] = dict.fromkeys(so_far.workflow.fields)
    for step, fields in so_far.known.rows.items():
        row |= {f"{step}.{name}": value for name, value in fields.items()}
    return row


def is_blocked(step: Step, so_far: Progress) -> bool:
    """Returns whether a step can never be taken: it is executed as often as it may, or no option of it applies."""
    if _executions(step, so_far.run.done) < 1:
        return True
    return isinstance(step, ChooseStep) and not hidden_names(step, so_far) and not options(step, so_far)


def needs_model(step: Step, so_far: Progress) -> bool:
    """Returns whether a step has a slot, or is a choice between several options."""
    if isinstance(step, ChooseStep):
        return not hidden_names(step, so_far) and len(options(step, so_far)) != 1
    return bool(slots_of(step))


def allowed_next(so_far: Progress) -> tuple[NextStep, ...]:
    """Returns the steps that are allowed next: at most one, whose choices and slots it names."""
    step = next_step(so_far.workflow, so_far.run.done) if so_far.run.ended is None else None
    if step is None:
        return ()
    choices: tuple[str, ...] = ()
    if isinstance(step, ChooseStep) and not hidden_names(step, so_far):
        choices = tuple(option.name for option in options(step, so_far))
    tool = f"{so_far.workflow.workflow.name}__{step.name}"
    return (NextStep(tool, step.name, tuple(sorted(slots_of(step))), choices),)


def _executions(step: Step, done: Sequence[Done]) -> int:
    """Returns how often a step may be executed still."""
    return step.repeat - sum(each.step == step.name for each in done)
