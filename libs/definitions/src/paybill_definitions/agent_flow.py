"""Order of a workflow's steps: each is reachable and can end, cycles are bounded, and what ran before a step. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from paybill_contracts.agent_bundles import ChooseStep, ComputeStep, ReadStep, Step, Workflow

from paybill_definitions.diagnostics import PartDiagnostic

END = "end"
"""Name that ends a run, instead of a next step."""

RESERVED_STEPS = frozenset(
    {END, "input", "run", "resource", "context", "datetime", "true", "false", "if", "then", "else"}
)
"""Names that mean something else in an argument or condition."""

SEPARATOR = "__"
"""Between workflow and step in the name of a tool."""

MAX_STEPS = 50


def errors(workflow: Workflow) -> Iterator[PartDiagnostic]:
    """Yields every error in the order of the steps; paths begin with `steps`."""
    names = [step.name for step in workflow.steps]
    if not names or len(names) > MAX_STEPS:
        yield PartDiagnostic(("steps",), f"a workflow has 1 to {MAX_STEPS} steps")
        return
    named = list(_names(workflow))
    yield from named
    if named:
        return
    next_steps = {step.name: successors(step) for step in workflow.steps}
    reached = _reached(names[0], next_steps)
    ending = _ending(next_steps)
    cycles = _cycles(names, next_steps)
    cyclic = {name for cycle in cycles for name in cycle}
    endless = {cycle[0]: ", ".join(cycle) for cycle in cycles}
    faults = []
    for step in workflow.steps:
        path = ("steps", step.name)
        if step.name not in reached:
            faults.append(PartDiagnostic(path, f"no step leads to {step.name}; remove it, or name it in `next`"))
        elif step.name not in ending:
            if step.name in endless:  # the other steps of the cycle, and those before it, follow from this
                reason = f"after {endless[step.name]} no path leads to the end; add `next: {END}` to one"
                faults.append(PartDiagnostic(path, reason))
        elif step.repeat == 1 and step.name in cyclic:
            faults.append(
                PartDiagnostic(path, f"{step.name} is in a cycle: write with `repeat` how often it may be executed")
            )
    yield from faults
    if not faults:
        for cycle in _cycles(names, next_steps):
            yield from _cycle(cycle, {step.name: step for step in workflow.steps}, next_steps)


def _cycle(
    cycle: Sequence[str], steps: Mapping[str, Step], next_steps: Mapping[str, Collection[str]]
) -> Iterator[PartDiagnostic]:
    """Yields why a run could have no next step in a cycle.

    A cycle begins again at one step, its head. The head is executed as often as every other step or more often, so that
    it alone can be used up, and only options lead back to it: one that leads to a step that is used up does not apply.
    """
    entered = _entered(cycle, next_steps)
    head = entered[0]
    if len(entered) > 1:
        reason = f"steps outside of the cycle lead to {' and to '.join(entered)} in it; lead to one of them"
        yield PartDiagnostic(("steps", entered[1]), reason)
        return
    others = {name: next_steps[name] for name in cycle if name != head}
    within = {name: [each for each in after if each in others] for name, after in others.items()}
    for name in others:
        path = ("steps", name)
        if name in _reached_after(name, within):
            yield PartDiagnostic(path, f"{name} is in a cycle within the cycle of {head}; lead back to {head} alone")
        elif steps[name].repeat != steps[head].repeat:
            reason = f"{name} is in the cycle of {head}: both need the same `repeat`, such as {steps[head].repeat}"
            yield PartDiagnostic(path, reason)
        elif head in next_steps[name] and not isinstance(steps[name], ChooseStep):
            reason = f"{name} leads back to {head}, which may be used up; only an option of a `choose` leads back"
            yield PartDiagnostic(path, reason)


def _cycles(names: Sequence[str], next_steps: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Returns the steps of each cycle, and of cycles that share a step together, in the order of the workflow."""
    after = {name: _reached_after(name, next_steps) for name in names}
    found: list[list[str]] = []
    for name in names:
        if name in after[name] and not any(name in cycle for cycle in found):
            found.append([each for each in names if each in after[name] and name in after[each]])
    return found


def _entered(cycle: Sequence[str], next_steps: Mapping[str, Collection[str]]) -> list[str]:
    """Returns the steps of a cycle that follow a step outside of it, or begin the workflow."""
    first = next(iter(next_steps))
    outside = {each for name, after in next_steps.items() if name not in cycle for each in after}
    return [name for name in cycle if name == first or name in outside]


def heads(workflow: Workflow) -> dict[str, str]:
    """Returns, by step in a cycle, the step at which this cycle begins again; the order of the steps has no error."""
    next_steps = {step.name: successors(step) for step in workflow.steps}
    cycles = _cycles([*next_steps], next_steps)
    return {name: _entered(cycle, next_steps)[0] for cycle in cycles for name in cycle}


def _names(workflow: Workflow) -> Iterator[PartDiagnostic]:
    if SEPARATOR in workflow.name:
        yield PartDiagnostic(("workflow",), f"{workflow.name}: names of tools use {SEPARATOR}; choose another name")
    known: set[str] = set()
    for step in workflow.steps:
        path = ("steps", step.name)
        if step.name in RESERVED_STEPS or SEPARATOR in step.name:
            yield PartDiagnostic(path, f"a step cannot have the name {step.name}; choose another one")
        if step.name in known:
            yield PartDiagnostic(path, f"the step {step.name} is defined twice")
        known.add(step.name)
    for step in workflow.steps:
        for next_steps in successors(step):
            if next_steps != END and next_steps not in known:
                place = "choose" if isinstance(step, ChooseStep) else "next"
                yield PartDiagnostic(
                    ("steps", step.name, place), f"there is no step {next_steps}, only {', '.join(known)}"
                )


def successors(step: Step) -> tuple[str, ...]:
    """Returns the names of what may follow a step."""
    return tuple(option.next for option in step.options) if isinstance(step, ChooseStep) else (step.next,)


def _reached(first: str, next_steps: Mapping[str, Collection[str]]) -> set[str]:
    found: set[str] = set()
    rest = [first]
    while rest:
        name = rest.pop()
        if name not in found and name != END:
            found.add(name)
            rest += next_steps[name]
    return found


def _reached_after(name: str, next_steps: Mapping[str, Collection[str]]) -> set[str]:
    return {each for next_ in next_steps[name] for each in _reached(next_, next_steps)}


def least(workflow: Workflow, cost: Mapping[str, int]) -> int:
    """Returns the smallest sum of costs of a path through a workflow without errors. cost: of a step by its name."""
    next_steps = {step.name: successors(step) for step in workflow.steps}
    rest = {**dict.fromkeys(next_steps, sum(cost.values())), END: 0}
    for _ in next_steps:
        for name, after in next_steps.items():
            rest[name] = min(rest[name], cost[name] + min(rest[each] for each in after))
    return rest[workflow.steps[0].name]


def _ending(next_steps: Mapping[str, Collection[str]]) -> set[str]:
    """Returns the steps from which a path leads to the end."""
    found: set[str] = set()
    while True:
        more = {name for name, after in next_steps.items() if END in after or found & set(after)}
        if more == found:
            return found
        found = more


def available(workflow: Workflow) -> dict[str, frozenset[str]]:
    """Returns, by step, the steps that have values and have run before it on every path."""
    valued = frozenset(step.name for step in workflow.steps if has_fields(step))
    before = {step.name: valued for step in workflow.steps}
    before[workflow.steps[0].name] = frozenset()
    while True:
        arriving: dict[str, list[frozenset[str]]] = {}
        for step in workflow.steps:
            for name in successors(step):
                arriving.setdefault(name, []).append(before[step.name] | ({step.name} & valued))
        after = {name: frozenset.intersection(known, *arriving.get(name, ())) for name, known in before.items()}
        if after == before:
            return before
        before = after


def has_fields(step: Step) -> bool:
    """Returns whether later steps can name fields of the step: it reads one row, or computes."""
    return isinstance(step, ComputeStep) or (isinstance(step, ReadStep) and step.one)
