"""Expressions in a blueprint's texts, such as `${tenant.slug}`: a name and nothing else."""

import re
from collections.abc import Iterator, Mapping

_EXPRESSION = re.compile(r"\$\{([^{}$]*)\}")
_NAME = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)*")


class ExpressionError(ValueError):
    """The text has a `$` that begins no expression, or an expression that is no name."""


def names(text: str) -> list[str]:
    """Returns the names of all expressions in `text`. Raises ExpressionError."""
    found = _EXPRESSION.findall(text)
    if "$" in _EXPRESSION.sub("", text):
        raise ExpressionError("a `$` begins an expression `${name}`")
    for name in found:
        if _NAME.fullmatch(name) is None:
            raise ExpressionError(f"${{{name}}} is no name such as ${{tenant.slug}}")
    return found


def resolved(text: str, values: Mapping[str, str | int]) -> str | int:
    """Returns `text` with the values of its expressions. One without a value stays.

    A text that is one expression alone gets the value itself, which may be a number.
    """
    alone = _EXPRESSION.fullmatch(text)
    if alone is not None:
        return values.get(alone[1], text)
    return _EXPRESSION.sub(lambda match: str(values.get(match[1], match[0])), text)


def all_names(values: object) -> Iterator[str]:
    """Yields the names of the expressions in a value of an attribute. Raises ExpressionError."""
    if isinstance(values, str):
        yield from names(values)
    elif isinstance(values, tuple | list):
        for each in values:
            yield from all_names(each)
