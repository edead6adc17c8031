"""Reads YAML into a pydantic model and reports every error with its line."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from paybill_contracts.validation_messages import plain_message
from pydantic import BaseModel, RootModel, ValidationError
from typing_extensions import override

MAX_BYTES = 512 * 1024
MAX_DEPTH = 100
MAX_DIAGNOSTICS = 20
MAX_VALUES = 100_000
MAX_NUMBER = 2**53 - 1
"""Larger numbers are not exact in JSON, and cannot be hashed."""

_TAGS = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_BOOLEAN = "tag:yaml.org,2002:bool"
_INTEGER = "tag:yaml.org,2002:int"
_NUMBERS = frozenset({_INTEGER, "tag:yaml.org,2002:float"})
_OTHER_BASE = re.compile(r"[-+]?0[0-9_bx]")

M = TypeVar("M", bound=BaseModel)
Path = tuple[int | str, ...]
Lines = dict[Path, int]
"""Line of each value, by its path of names and indexes."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """An error in a line."""

    line: int
    reason: str


class InvalidDocumentError(Exception):
    """The text is no YAML document of the expected shape."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__()
        self.diagnostics = diagnostics


def read(model: type[M], text: str, *, refuses_aliases: bool = False) -> tuple[M, Lines]:
    """Returns the content and the line of each part. Raises InvalidDocumentError."""
    value, lines, repeated = parsed(text, refuses_aliases=refuses_aliases)
    try:
        found = validated(model, value, lines)
    except InvalidDocumentError as error:
        raise InvalidDocumentError(*repeated, *error.diagnostics) from None
    if repeated:
        raise InvalidDocumentError(*repeated)
    return found, lines


def parsed(text: str, *, refuses_aliases: bool = False) -> tuple[Any, Lines, tuple[Diagnostic, ...]]:
    """Returns the plain values of a document, the line of each part, and an error for each repeated name.

    Of a repeated name, the first value counts. Raises InvalidDocumentError for a text without one meaning.
    """
    if len(text) > MAX_BYTES:
        raise InvalidDocumentError(Diagnostic(1, f"the file is larger than {MAX_BYTES} bytes"))
    lines: Lines = {}
    repeated: list[Diagnostic] = []
    try:
        return _parsed(text, lines, repeated, refuses_aliases=refuses_aliases), lines, tuple(repeated)
    except yaml.YAMLError as error:
        raise InvalidDocumentError(*repeated, _yaml_diagnostic(error)) from None
    except InvalidDocumentError as error:
        raise InvalidDocumentError(*repeated, *error.diagnostics) from None


def validated(model: type[M], value: object, lines: Lines, path: Path = ()) -> M:
    """Returns the part of a document at `path` as a model. Raises InvalidDocumentError."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = (_schema_diagnostic(item, lines, path, model) for item in error.errors())
        raise InvalidDocumentError(*faults) from None


def together(**parts: Callable[[], Any]) -> dict[str, Any]:
    """Returns the results of all parts by name. Raises InvalidDocumentError with the errors of every part."""
    found: dict[str, Any] = {}
    faults: list[Diagnostic] = []
    for name, part in parts.items():
        try:
            found[name] = part()
        except InvalidDocumentError as error:
            faults += error.diagnostics
    if faults:
        raise InvalidDocumentError(*faults)
    return found


def line_of(lines: Lines, path: Path) -> int:
    """Returns the line of the nearest part that is in the file."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


class _Loader(yaml.SafeLoader):
    """Loader that refuses deep nesting before Python's recursion limit does.

    At that limit a garbage collection would run finalizers of unrelated objects, which then fail with RecursionError.
    """

    def __init__(self, text: str, *, refuses_aliases: bool) -> None:
        super().__init__(text)
        self._depth = 0
        self._refuses_aliases = refuses_aliases

    @override
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _too_deep(self.line + 1)
        if self._refuses_aliases and self.check_event(yaml.AliasEvent):
            line = self.line + 1
            raise InvalidDocumentError(Diagnostic(line, "an alias is refused; write the value again"))
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _too_deep(line: int) -> InvalidDocumentError:
    return InvalidDocumentError(Diagnostic(line, f"no YAML: nested too deeply, in more than {MAX_DEPTH} levels"))


def report(name: str, diagnostics: Iterable[Diagnostic]) -> list[str]:
    """Returns `<file>:<line>: <reason>` for each, once and at most MAX_DIAGNOSTICS, and the number of the others."""
    ordered = sorted(dict.fromkeys(diagnostics), key=lambda each: each.line)
    rest = [f"{name}: and {len(ordered) - MAX_DIAGNOSTICS} more"] if len(ordered) > MAX_DIAGNOSTICS else []
    return [f"{name}:{each.line}: {each.reason}" for each in ordered[:MAX_DIAGNOSTICS]] + rest


def _parsed(text: str, lines: Lines, repeated: list[Diagnostic], *, refuses_aliases: bool) -> Any:
    """Returns plain values, and records the line of each in `lines` and each repeated name in `repeated`."""
    loader = _Loader(text, refuses_aliases=refuses_aliases)
    try:
        node = loader.get_single_node()
        if node is None:
            raise InvalidDocumentError(Diagnostic(1, "the file is empty"))
        return _plain(loader, node, (), lines, repeated)
    finally:
        loader.dispose()


def _plain(loader: yaml.SafeLoader, node: yaml.Node, path: Path, lines: Lines, repeated: list[Diagnostic]) -> Any:
    line = node.start_mark.line + 1
    if len(path) > MAX_DEPTH:  # by an alias that contains itself
        raise _too_deep(line)
    lines[path] = line
    if len(lines) > MAX_VALUES:
        raise InvalidDocumentError(Diagnostic(line, f"more than {MAX_VALUES} values; aliases multiply"))
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _TAGS:
        raise InvalidDocumentError(Diagnostic(line, f"the tag {node.tag:.60} is refused; remove it"))
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, index), lines, repeated) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        plain = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InvalidDocumentError(Diagnostic(key.start_mark.line + 1, "a name must be plain text"))
            place = (*path, key.value)
            if key.value in plain:
                text = f"{key.value} is written twice, first in line {lines[place]}"
                repeated.append(Diagnostic(value.start_mark.line + 1, text))
            else:
                plain[key.value] = _plain(loader, value, place, lines, repeated)
        return plain
    if isinstance(node, yaml.ScalarNode) and (reason := _ambiguous(node)):
        raise InvalidDocumentError(Diagnostic(line, reason))
    try:
        value = loader.construct_object(node)
    except ValueError as error:  # such as a thirteenth month
        raise InvalidDocumentError(Diagnostic(line, f"{node.value!r:.60} is no value: {error}")) from None
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        where = ".".join(map(str, path)) or "the file"
        raise InvalidDocumentError(Diagnostic(line, f"{where}: the number has more than 53 bits"))
    return value


def _ambiguous(node: yaml.ScalarNode) -> str | None:
    """Returns why a scalar is refused that YAML 1.1 reads in another way than YAML 1.2, or than people do."""
    text = node.value
    if node.tag == _BOOLEAN and text.lower() not in {"true", "false"}:
        return f"{text} would be a boolean; write true or false, or quote the text"
    if node.tag in _NUMBERS and ":" in text:
        return f"{text} would be a number to the base 60; write the number, or quote the text"
    if node.tag == _INTEGER and _OTHER_BASE.match(text):
        return f"{text} would be a number to another base than 10; write it to the base 10, or quote the text"
    return None


def _schema_diagnostic(item: Any, lines: Lines, path: Path, model: type[BaseModel]) -> Diagnostic:
    """Returns the error with the nearest known line: some steps of pydantic's path are types, not names in the file."""
    known = _fields_beside(model, item["loc"]) if item["type"] == "extra_forbidden" else []
    for step in item["loc"]:
        if (*path, step) in lines:
            path = (*path, step)
    missing = item["type"] == "missing"
    where = ".".join(str(step) for step in (*path, item["loc"][-1] if missing else "") if step != "")
    fields = f", only {', '.join(known)}" if known else ""
    return Diagnostic(lines.get(path, 1), f"{where or 'the file'}: {plain_message(item)}{fields}")


def _fields_beside(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Returns the fields of the part that has an unknown one at `location`; none when several kinds of it exist."""
    found: Any = _root(model)
    for step in location[:-1]:
        if isinstance(found, type) and issubclass(found, BaseModel) and step in found.model_fields:
            found = _only_part(found.model_fields[step].annotation)
        elif get_origin(found) in {dict, tuple, list}:
            found = _only_part(next(each for each in reversed(get_args(found)) if each is not ...))
        else:
            return []
        found = _root(found)
    return list(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else []


def _root(found: Any) -> Any:
    """Returns the type of the content of a model that has nothing else."""
    if isinstance(found, type) and issubclass(found, RootModel):
        return _only_part(found.model_fields["root"].annotation)
    return found


def _only_part(annotation: Any) -> Any:
    """Returns a type without what annotates it, and without None; None for one of several."""
    if get_origin(annotation) is Annotated:
        return _only_part(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        others = [each for each in get_args(annotation) if each is not type(None)]
        return _only_part(others[0]) if len(others) == 1 else None
    return annotation


def _yaml_diagnostic(error: yaml.YAMLError) -> Diagnostic:
    mark = getattr(error, "problem_mark", None)
    return Diagnostic(mark.line + 1 if mark is not None else 1, f"no YAML: {getattr(error, 'problem', None) or error}")
