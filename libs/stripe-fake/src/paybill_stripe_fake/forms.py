"""Parses form-encoded parameters as Stripe nests them (`items[0][price]=…`); each error names the parameter."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from paybill_stripe_fake.errors import InvalidRequestError

Value: TypeAlias = "str | dict[str, Value]"

_MAX_FIELDS = 1000
_MAX_DEPTH = 8
"""Levels of the deepest parameter at Stripe: `schedule_details[phases][0][items][0][discounts][0][discount]`."""
_MAX_TEXT = 5000
_MAX_INTEGER = 2**53
_MAX_METADATA_KEYS = 50
_MAX_METADATA_KEY = 40
_MAX_METADATA_VALUE = 500
_MAX_DECIMALS = 12
_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
}


def parse_form(encoded: str | bytes) -> dict[str, Value]:
    """Returns the nested parameters of a form or query string; lists become objects with the index as key."""
    try:
        text = encoded.decode("utf-8") if isinstance(encoded, bytes) else encoded
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidRequestError(f"The parameters are not a form in UTF-8 of at most {_MAX_FIELDS} fields.") from error
    tree: dict[str, Value] = {}
    for key, value in pairs:
        match = _KEY.fullmatch(key)
        path = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])] if match else []
        if not path or len(path) > _MAX_DEPTH or "\0" in value:
            raise InvalidRequestError(f"Invalid parameter: {key[:100]!r}")
        _place(tree, path, value, key)
    return tree


def is_web_url(text: str) -> bool:
    """Returns whether `text` is an absolute http or https URL that is safe in a page."""
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and not re.search(r'[\s<>"\\\x00-\x20]', text)
    except ValueError:
        return False


def from_json(value: Any) -> Value:
    """Returns the same tree from JSON, for the control routes."""
    match value:
        case dict():
            return {str(key): from_json(inner) for key, inner in value.items() if inner is not None}
        case list():
            return {str(index): from_json(inner) for index, inner in enumerate(value)}
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)


def _place(tree: dict[str, Value], path: list[str], value: str, key: str) -> None:
    node = tree
    for step, inner in pairwise(path):
        name = step or str(max(0, len(node) - 1) if inner else len(node))
        # `a[][x]=1&a[][y]=2` is one element until a name repeats; then the next element begins.
        if not step and name in node and isinstance(node[name], dict) and inner in node[name]:
            name = str(len(node))
        child = node.setdefault(name, {})
        if isinstance(child, str):
            raise InvalidRequestError(f"Invalid parameter: {key[:100]!r} is both a value and an object.")
        node = child
    last = path[-1] or str(len(node))
    if isinstance(node.get(last), dict):
        raise InvalidRequestError(f"Invalid parameter: {key[:100]!r} is both a value and an object.")
    node[last] = value


class Params:
    """Parameters that are read one by one; `finish` refuses those that were not read.

    A method returns None for a parameter that is absent, or that is empty in order to unset it.
    """

    def __init__(self, tree: Mapping[str, Value], path: str = "") -> None:
        self._tree = tree
        self._path = path
        self._read: set[str] = set()
        self._children: list[Params] = []

    def name(self, key: str) -> str:
        """Returns the parameter's full name, as in `items[0][price]`."""
        return f"{self._path}[{key}]" if self._path else key

    def has(self, key: str) -> bool:
        """Returns whether the parameter is present, even if empty."""
        return key in self._tree

    def names(self) -> set[str]:
        """Returns the names of all parameters, read or not."""
        return set(self._tree)

    def text(self, key: str, *, longest: int = _MAX_TEXT) -> str | None:
        """Returns a string of at most `longest` characters."""
        value = self._scalar(key)
        if value is not None and len(value) > longest:
            raise InvalidRequestError(
                f"Invalid string: {self.name(key)} is longer than {longest} characters.", param=self.name(key)
            )
        return value or None

    def required(self, key: str, *, longest: int = _MAX_TEXT) -> str:
        """Returns a string that must be present and not empty."""
        value = self.text(key, longest=longest)
        if value is None:
            raise self._missing(key)
        return value

    def choice(self, key: str, *choices: str) -> str | None:
        """Returns one of the allowed words."""
        value = self.text(key)
        if value is not None and value not in choices:
            raise InvalidRequestError(
                f"Invalid {self.name(key)}: must be one of {', '.join(choices)}", param=self.name(key)
            )
        return value

    def flag(self, key: str) -> bool | None:
        """Returns the boolean of `true` or `false`."""
        value = self.text(key)
        if value is not None and value not in {"true", "false"}:
            raise InvalidRequestError(f"Invalid boolean: {value[:100]}", param=self.name(key))
        return None if value is None else value == "true"

    def integer(self, key: str, *, least: int = 0, most: int = _MAX_INTEGER) -> int | None:
        """Returns a whole number from `least` to `most`."""
        value = self.text(key, longest=100)
        if value is None:
            return None
        if not re.fullmatch(r"-?[0-9]{1,18}", value):
            raise InvalidRequestError(
                f"Invalid integer: {value}", code="parameter_invalid_integer", param=self.name(key)
            )
        if not least <= int(value) <= most:
            raise InvalidRequestError(
                f"Invalid integer: {self.name(key)} must be from {least} to {most}",
                code="parameter_invalid_integer",
                param=self.name(key),
            )
        return int(value)

    def decimal(self, key: str) -> Decimal | None:
        """Returns a number that is not negative, with at most 12 decimal places."""
        value = self.text(key, longest=40)
        if value is None:
            return None
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal(-1)
        exponent = number.as_tuple().exponent
        if not isinstance(exponent, int) or exponent < -_MAX_DECIMALS or not 0 <= number <= _MAX_INTEGER:
            raise InvalidRequestError(f"Invalid decimal: {value}", param=self.name(key))
        return number

    def url(self, key: str) -> str | None:
        """Returns an absolute http or https URL."""
        value = self.text(key)
        if value is not None and not is_web_url(value):
            raise InvalidRequestError("Not a valid URL", code="url_invalid", param=self.name(key))
        return value

    def nested(self, key: str) -> "Params | None":
        """Returns an object with parameters of its own."""
        self._read.add(key)
        value = self._tree.get(key)
        if value is None or value == "":
            return None
        if isinstance(value, str):
            raise InvalidRequestError(f"Invalid object: {self.name(key)}", param=self.name(key))
        child = Params(value, self.name(key))
        self._children.append(child)
        return child

    def many(self, key: str, *, most: int) -> "list[Params] | None":
        """Returns a list of objects, in the order of their indices."""
        holder = self.nested(key)
        if holder is None:
            return None
        elements = [holder.nested(index) for index in holder.indices(most)]
        if None in elements:
            raise InvalidRequestError(
                f"Invalid array: the elements of {self.name(key)} are objects", param=self.name(key)
            )
        return [element for element in elements if element is not None]

    def texts(self, key: str, *, most: int) -> list[str] | None:
        """Returns a list of strings, in the order of their indices."""
        holder = self.nested(key)
        return None if holder is None else [holder.required(index) for index in holder.indices(most)]

    def metadata(self, current: Mapping[str, str] | None = None, key: str = "metadata") -> dict[str, str]:
        """Returns the held metadata with the passed keys set and the empty ones removed; an empty value removes all."""
        if self._tree.get(key) == "":
            self._read.add(key)
            return {}
        changes = self.nested(key) or Params({})
        merged = dict(current or {})
        for name in sorted(changes.names()):
            value = changes.text(name, longest=_MAX_METADATA_VALUE)
            if len(name) > _MAX_METADATA_KEY:
                raise InvalidRequestError(
                    f"Metadata keys can have at most {_MAX_METADATA_KEY} characters.", param=self.name(key)
                )
            if value is None:
                merged.pop(name, None)
            else:
                merged[name] = value
        if len(merged) > _MAX_METADATA_KEYS:
            raise InvalidRequestError(f"Metadata can have at most {_MAX_METADATA_KEYS} keys.", param=self.name(key))
        return merged

    def within(self, key: str) -> Callable[[int], bool]:
        """Returns a predicate for a time filter: an exact number, or bounds named gt, gte, lt and lte."""
        if isinstance(self._tree.get(key), str):
            exact = self.integer(key)
            return lambda value: exact is None or value == exact
        filters = self.nested(key)
        bounds = {name: filters.integer(name) for name in _COMPARISONS} if filters else {}
        return lambda value: all(bound is None or _COMPARISONS[name](value, bound) for name, bound in bounds.items())

    def indices(self, most: int) -> list[str]:
        """Returns the keys of a list, in order; refuses an object that is no list or too long."""
        if len(self._tree) > most or not all(re.fullmatch(r"[0-9]{1,6}", key) for key in self._tree):
            raise InvalidRequestError(f"Invalid array: {self._path} takes at most {most} elements", param=self._path)
        return sorted(self._tree, key=int)

    def finish(self) -> None:
        """Refuses every parameter that was sent and not read."""
        for key in self._tree:
            if key not in self._read:
                raise InvalidRequestError(
                    f"Received unknown parameter: {self.name(key)[:200]} (the Stripe fake does not implement it)",
                    code="parameter_unknown",
                    param=self.name(key)[:200],
                )
        for child in self._children:
            child.finish()

    def _scalar(self, key: str) -> str | None:
        self._read.add(key)
        value = self._tree.get(key)
        if isinstance(value, dict):
            raise InvalidRequestError(f"Invalid string: {self.name(key)} is an object", param=self.name(key))
        return value

    def _missing(self, key: str) -> InvalidRequestError:
        if self.has(key):
            message = (
                f"You passed an empty string for '{self.name(key)}'. We assume empty values are an attempt to unset a "
                f"parameter; however '{self.name(key)}' cannot be unset."
            )
            return InvalidRequestError(message, code="parameter_invalid_empty", param=self.name(key))
        return InvalidRequestError(
            f"Missing required param: {self.name(key)}.", code="parameter_missing", param=self.name(key)
        )
