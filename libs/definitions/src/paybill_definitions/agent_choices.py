"""Options of a choice: at least one applies to every row. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product

from paybill_contracts.agent_bundles import ChooseStep
from paybill_contracts.agent_expressions import (
    And,
    Comparator,
    Comparison,
    Condition,
    Constant,
    Not,
    Operand,
    Or,
)

from paybill_definitions.agent_conditions import nodes

MAX_ATOMS = 10
"""Different comparisons of a choice whose combinations are tried."""
_NEGATED = {
    Comparator.NOT_EQUAL: Comparator.EQUAL,
    Comparator.GREATER: Comparator.LESS_OR_EQUAL,
    Comparator.GREATER_OR_EQUAL: Comparator.LESS,
}
_MIRRORED = {
    Comparator.LESS: Comparator.GREATER,
    Comparator.LESS_OR_EQUAL: Comparator.GREATER_OR_EQUAL,
    Comparator.GREATER: Comparator.LESS,
    Comparator.GREATER_OR_EQUAL: Comparator.LESS_OR_EQUAL,
}
_Atom = tuple[str, bool]
"""A text that equal comparisons share, and whether it is negated."""


def errors(step: ChooseStep, head: str | None) -> Iterator[str]:
    """Yields why a choice could be without an option, or with two of one name. Its conditions have no error.

    head: the step at which the cycle of the choice begins again, until it is used up; None outside of a cycle.
    """
    for name, count in Counter(option.name for option in step.options).items():
        if count > 1:
            yield f"the option {name} is defined {count} times"
    if not _is_complete([option.when for option in step.options]):
        yield (
            "it could happen that no option applies; add one without `when`, such as `otherwise: {next: end}`, "
            "or write the opposite of a condition with `!`"
        )
    elif not _is_complete([option.when for option in step.options if option.next != head]):
        yield (
            f"it could happen that no option applies when {head} is used up, as its `repeat` says; add one that leads "
            "elsewhere without `when`"
        )


def _is_complete(conditions: list[Condition | None]) -> bool:
    """Returns whether one of the conditions is true in each combination of their comparisons."""
    known = [each for each in conditions if each is not None]
    if len(known) < len(conditions):
        return True
    leaves = [node for each in known for node in nodes(each) if not isinstance(node, And | Or | Not | Constant)]
    names = sorted({_atom(each)[0] for each in leaves})
    if len(names) > MAX_ATOMS:
        return False
    return all(
        any(_is_true(each, dict(zip(names, values, strict=True))) for each in known)
        for values in product((False, True), repeat=len(names))
    )


def _is_true(condition: Condition, atoms: Mapping[str, bool]) -> bool:
    match condition:
        case And():
            return _is_true(condition.left, atoms) and _is_true(condition.right, atoms)
        case Or():
            return _is_true(condition.left, atoms) or _is_true(condition.right, atoms)
        case Not():
            return not _is_true(condition.operand, atoms)
        case Constant():
            return bool(condition.value)
        case _:
            name, is_negated = _atom(condition)
            return atoms[name] != is_negated


def _atom(condition: Condition) -> _Atom:
    if not isinstance(condition, Comparison):
        return condition.model_dump_json(), False
    operator, left, right = condition.operator, _text(condition.left), _text(condition.right)
    if left > right:
        operator, left, right = _MIRRORED.get(operator, operator), right, left
    return f"{left} {_NEGATED.get(operator, operator)} {right}", operator in _NEGATED


def _text(operand: Operand) -> str:
    return operand.model_dump_json()
