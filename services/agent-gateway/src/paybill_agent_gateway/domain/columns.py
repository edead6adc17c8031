"""Values of columns: their canonical form in facts and answers, and the form that the driver of PostgreSQL takes."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from paybill_contracts.agent_bundles import Scalar
from paybill_contracts.errors import DomainError

_UUID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_BITS: Final = {"integer": 31, "bigint": 63}


class ValueRefusedError(DomainError):
    """A value does not fit the type of its column."""

    code = "value_refused"


def canonical(type_: str, value: Any) -> Scalar | None:
    r"""Returns a value of PostgreSQL in its canonical form.

    Times are ISO 8601 in UTC with `Z`, dates ISO 8601, uuids lower case, numerics plain digits, bytes `\x` and hex.
    A time or date that Python cannot represent keeps PostgreSQL's text, `infinity` for example.
    """
    if value is None:
        return None
    convert = _CANONICAL.get(type_)
    return convert(value) if convert else value


def needs_conversion(type_: str) -> bool:
    """Returns whether the driver's value of the type is not its canonical form already."""
    return type_ in _CANONICAL


def native(type_: str, value: Scalar | None) -> Any:
    """Returns a canonical value in the form that the driver takes. Raises ValueRefusedError."""
    if value is None:
        return None
    try:
        return _NATIVE[type_](value)
    except (ValueError, TypeError, InvalidOperation) as error:
        raise ValueRefusedError(f"a value does not fit the type {type_} of its column") from error


def _time(value: Any) -> str:
    if isinstance(value, str):
        try:
            return _time(datetime.fromisoformat(value))
        except ValueError:
            return value
    bare = value.replace(tzinfo=None)
    if bare in {datetime.min, datetime.max}:  # noqa: DTZ901  # as which the driver returns infinite times
        return "infinity" if bare == datetime.max else "-infinity"  # noqa: DTZ901  # as above
    text: str = value.astimezone(UTC).isoformat()
    return text.replace("+00:00", "Z")


def _date(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value in {date.min, date.max}:
        return "infinity" if value == date.max else "-infinity"
    return str(value.isoformat())


def _numeric(value: Any) -> str:
    number = Decimal(value)
    return format(number, "f") if number.is_finite() else str(number)


def _bytes(value: Any) -> str:
    return value if isinstance(value, str) else f"\\x{bytes(value).hex()}"


_CANONICAL: Final[dict[str, Callable[[Any], Scalar]]] = {
    "timestamptz": _time,
    "date": _date,
    "numeric": _numeric,
    "bytea": _bytes,
    "uuid": lambda value: str(value).lower(),
}


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\x00" in value:
        raise ValueError("no text without NUL")
    value.encode()  # a lone surrogate is no text either
    return value


def _whole(type_: str) -> Callable[[Any], int]:
    limit = 2 ** _BITS[type_]

    def whole(value: Any) -> int:
        if type(value) is not int or not -limit <= value < limit:
            raise ValueError("no integer of this size")
        return value

    return whole


def _uuid(value: Any) -> str:
    if _UUID.fullmatch(value) is None:
        raise ValueError("no uuid")
    return str(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("no boolean")
    return value


def _moment(value: Any) -> datetime:
    found = datetime.fromisoformat(value)
    if found.tzinfo is None:
        raise ValueError("a time without zone")
    return found


_NATIVE: Final[dict[str, Callable[[Any], Any]]] = {
    "text": _text,
    "jsonb": _text,
    "uuid": _uuid,
    "integer": _whole("integer"),
    "bigint": _whole("bigint"),
    "boolean": _boolean,
    "timestamptz": _moment,
    "date": date.fromisoformat,
    "numeric": lambda value: Decimal(_text(value)),
    "bytea": lambda value: bytes.fromhex(_text(value).removeprefix("\\x")),
}
