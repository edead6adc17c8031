"""Strict JSON: every document has one meaning, and each of its values can be stored.

Python's `json` keeps the last of repeated keys, and accepts NaN, NUL, lone surrogates and integers of any size. Another
program that reads the same document may decide on another value than the one that is executed.
"""

import json
import math
from collections import Counter
from typing import Any

MAX_DIGITS = 20
MAX_KEYS = 10_000
"""Keys of one object."""
MAX_DEPTH = 100
"""Levels of objects and lists."""
MAX_PLACE = 200
"""Characters of the place that a refusal names."""
_SURROGATES = range(0xD800, 0xE000)


class JsonError(ValueError):
    """The document is refused. code: stable; message: what is wrong, and where."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def read_json(document: bytes) -> Any:
    """Returns the value of a document.

    Raises JsonError: `invalid_json` (not JSON, NaN included, or nested too deeply), `repeated_key`, `too_many_keys`,
    `number_out_of_range` (an integer of more than 64 bits, or a number beyond the largest float) and `invalid_text`
    (NUL or a lone surrogate). The time is linear in the length of the document.
    """
    try:
        text = document.decode()
    except UnicodeDecodeError as error:
        raise JsonError("invalid_json", f"byte {error.start} is not UTF-8") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=object_of,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_number,
        )
    except json.JSONDecodeError as error:
        raise JsonError("invalid_json", f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise _too_deep() from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    if "\\u" in text:  # other texts have neither: JSON refuses raw control characters, and UTF-8 raw surrogates
        _check_texts(value)
    return value


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object; a hook of `json.loads`. Raises JsonError for repeated keys, and for too many."""
    if len(pairs) > MAX_KEYS:
        raise JsonError("too_many_keys", f"an object has {len(pairs)} keys; {MAX_KEYS} are allowed")
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise JsonError("repeated_key", f"the key {repeated[:100]!a} is repeated; send each key once")
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [each for part in inner for each in part]
    if level:
        raise _too_deep()


def _too_deep() -> JsonError:
    return JsonError("invalid_json", f"values are nested in more than {MAX_DEPTH} levels")


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) <= MAX_DIGITS else 2**63
    if not -(2**63) <= value < 2**63:
        raise JsonError("number_out_of_range", f"{_shortened(digits)} is not an integer of 64 bits")
    return value


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise JsonError("number_out_of_range", f"{_shortened(digits)} is too large")
    return value


def _shortened(digits: str) -> str:
    """Returns a number as it is shown: a long one is cut, and says so."""
    return digits if len(digits) <= MAX_DIGITS else f"{digits[:MAX_DIGITS]}… ({len(digits)} characters)"


def _refuse_constant(name: str) -> Any:
    raise JsonError("invalid_json", f"{name} is not JSON")


def _check_texts(value: Any) -> None:
    open_: list[tuple[str, Any]] = [("", value)]
    while open_:
        place, part = open_.pop()
        if isinstance(part, dict):
            for name, each in part.items():
                if _is_invalid(name):
                    raise _invalid_text(f"a key of {place or 'the document'}")
                open_.append((place if len(place) > MAX_PLACE else f"{place}.{name[:MAX_PLACE]!a}", each))
        elif isinstance(part, list):
            open_ += (
                (place if len(place) > MAX_PLACE else f"{place}[{index}]", each) for index, each in enumerate(part)
            )
        elif isinstance(part, str) and _is_invalid(part):
            raise _invalid_text(place)


def _is_invalid(text: str) -> bool:
    return "\0" in text or any(ord(each) in _SURROGATES for each in text)


def _invalid_text(place: str) -> JsonError:
    where = place.removeprefix(".")[:MAX_PLACE] or "the text"
    return JsonError("invalid_text", f"{where} contains NUL or a lone surrogate; remove it")
