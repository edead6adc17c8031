"""Strict JSON: every document has one meaning, and each of its values can be stored.

Python's `json` keeps the last of repeated keys, and accepts NaN, NUL, lone surrogates and integers of any size. Another
program that reads the same document may decide on another value than the one that is executed.
"""

import json
import math
from typing import Any

MAX_DIGITS = 20
_SURROGATES = range(0xD800, 0xE000)


class JsonError(ValueError):
    """The document is refused. code: stable; message: what is wrong, and where."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def read_json(document: bytes) -> Any:
    """Returns the value of a document.

    Raises JsonError: `invalid_json` (not JSON, NaN included), `repeated_key`, `number_out_of_range` (an integer of more
    than 64 bits, or a number beyond the largest float) and `invalid_text` (NUL or a lone surrogate).
    """
    try:
        text = document.decode()
    except UnicodeDecodeError as error:
        raise JsonError("invalid_json", f"byte {error.start} is not UTF-8") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_number,
        )
    except json.JSONDecodeError as error:
        raise JsonError("invalid_json", f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise JsonError("invalid_json", "values are nested too deeply") from None
    if "\\u" in text:  # other texts have neither: JSON refuses raw control characters, and UTF-8 raw surrogates
        _check_texts(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in found if names.count(name) > 1)
        raise JsonError("repeated_key", f"the key {repeated[:100]!a} is repeated; send each key once")
    return found


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) <= MAX_DIGITS else 2**63
    if not -(2**63) <= value < 2**63:
        raise JsonError("number_out_of_range", f"{digits[:MAX_DIGITS]} is not an integer of 64 bits")
    return value


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise JsonError("number_out_of_range", f"{digits[:MAX_DIGITS]} is too large")
    return value


def _refuse_constant(name: str) -> Any:
    raise JsonError("invalid_json", f"{name} is not JSON")


def _check_texts(value: Any) -> None:
    open_: list[tuple[str, Any]] = [("", value)]
    while open_:
        place, part = open_.pop()
        if isinstance(part, dict):
            open_ += ((f"{place}.{name!a}", each) for name, each in part.items())
            open_ += ((f"a key of {place or 'the document'}", name) for name in part)
        elif isinstance(part, list):
            open_ += ((f"{place}[{index}]", each) for index, each in enumerate(part))
        elif isinstance(part, str) and ("\0" in part or any(ord(each) in _SURROGATES for each in part)):
            where = place.removeprefix(".")[:200] or "the text"
            raise JsonError("invalid_text", f"{where} contains NUL or a lone surrogate; remove it")
