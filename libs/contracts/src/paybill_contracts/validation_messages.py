"""Messages of pydantic's validation errors for people: without its types, and with patterns in words."""

from collections.abc import Mapping
from typing import Any

_WORDS = {
    r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$": "1 to 40 of a-z, 0-9 and dash, from a letter to a letter or digit",
    r"^(ten_[0-9a-f]{32}|[a-z]([a-z0-9-]{0,38}[a-z0-9])?)$": "a tenant's slug, or ten_ and 32 hexadecimal digits",
    r"^[a-z][a-z0-9_-]{0,62}$": "1 to 63 of a-z, 0-9, dash and underscore, beginning with a letter",
    r"^[a-z][a-z0-9_-]{0,31}$": "1 to 32 of a-z, 0-9, dash and underscore, beginning with a letter",
    r"^[A-Z]{3}$": "a currency of ISO 4217 in capital letters, such as EUR",
    r"^[A-Za-z0-9_-]{1,100}$": "1 to 100 letters, digits, dashes and underscores",
    r"^[A-Za-z0-9_\-.:/]{1,255}$": "an id of the provider: 1 to 255 letters, digits and _-.:/",
    r"^[^\x00-\x1f\x7f]+$": "one line without control characters",
    r"^[^@\s\x00-\x1f\x7f-\x9f]+@[^@\s\x00-\x1f\x7f-\x9f]+$": "an e-mail address, such as ops@acme.example",
    r"^[0-9a-f]{64}$": "64 hexadecimal digits in lower case",
    r"^[A-Za-z0-9-]{1,32}$": "the id of an API key: 1 to 32 letters, digits and dashes",
    r"^(user|service):[A-Za-z0-9_.@-]{1,100}$": "user: or service: and 1 to 100 letters, digits and _.@-",
    r"^(\*|[a-z][a-z-]{0,31}:(read|write))$": "a service and :read or :write, such as tenant:read, or *",
    r"^(env|ten)_[0-9a-f]{32}$": "env_ or ten_ and 32 hexadecimal digits",
    r"^dif_[0-9a-f]{16}$": "dif_ and 16 hexadecimal digits",
    r"^[a-z][a-z0-9_.-]{0,120}$": "a kind and a name, such as schema.main",
    r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,199}$": "1 to 200 letters, digits and _./-, beginning with a letter or digit",
    r"^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$": "a range of addresses, such as 10.0.0.0/16",
    r"^[^\x00-\x1f\x7f]*$": "one line without control characters",
    r"^[a-z][a-z0-9_-]{0,62}\.[a-z][a-z0-9_-]{0,62}$": "a table and a column, such as refunds.amount",
    r"^-?[a-z][a-z0-9_-]{0,62}$": "a column, with - before it for descending order",
    r"^[^\x00-\x1f]*$": "one line without control characters",
    r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$": "a date such as 2026-11-01",
    r"^(ovr|grt)_[0-9a-f]{32}$": "ovr_ or grt_ and 32 hexadecimal digits",
    r"^inv_[0-9a-f]{32}_[1-9][0-9]{0,8}$": "inv_, 32 hexadecimal digits, _ and a number",
    r"^[0-9a-f]{0,32}$": "`next` of the previous page",
    r"^[A-Za-z0-9_.-]+$": "letters, digits and _.-",
    r"^(on_demand|at_once)$": "on_demand or at_once",
}
_PREFIXES = ("ten", "sub", "env", "lic", "chg", "mov", "con", "inc", "apr", "vio", "rec", "dri", "ovr", "grt")
_WORDS |= {rf"^{prefix}_[0-9a-f]{{32}}$": f"{prefix}_ and 32 hexadecimal digits" for prefix in _PREFIXES}
_MESSAGES = {
    "greater_than": "write more than {gt}",
    "greater_than_equal": "write {ge} or more",
    "less_than": "write less than {lt}",
    "less_than_equal": "write {le} or less",
    "string_too_short": "write at least {min_length} characters",
    "string_too_long": "write at most {max_length} characters",
    "too_short": "write at least {min_length} entries",
    "too_long": "write at most {max_length} entries",
    "int_type": "write a whole number",
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "string_type": "write a text",
    "tuple_type": "write a list, such as [a, b]",
    "list_type": "write a list, such as [a, b]",
    "dict_type": "write an object: names with values, such as {{a: b}}",
    "model_type": "write an object: names with values, such as {{a: b}}",
    "mapping_type": "write an object: names with values, such as {{a: b}}",
    "literal_error": "write {expected}",
    "enum": "write {expected}",
    "missing": "it is required",
    "extra_forbidden": "there is no such field",
}
"""Messages by pydantic's type of error; pydantic's own are written for programmers."""
_EMPTY = {"string_too_short": "write a text that is not empty", "too_short": "write at least one entry"}


def plain_message(item: Mapping[str, Any]) -> str:
    """Returns the message of a validation error of pydantic for people."""
    values = item.get("ctx") or {}
    pattern = values.get("pattern")
    if isinstance(pattern, str) and pattern in _WORDS:
        return f"write {_WORDS[pattern]}"
    if item.get("type") in _EMPTY and values.get("min_length") == 1:
        return _EMPTY[item["type"]]
    known = _MESSAGES.get(item.get("type", ""))
    return str(item["msg"]).removeprefix("Value error, ") if known is None else known.format_map(values)
