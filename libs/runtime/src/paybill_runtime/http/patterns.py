"""Words for the patterns of request fields: a person cannot read a regular expression in an error message."""

from collections.abc import Mapping
from typing import Any

from paybill_contracts.event import plain_message

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
}
_PREFIXES = ("ten", "sub", "env", "lic", "chg", "mov", "con", "inc", "vio", "rec", "dri", "ovr", "grt")
_WORDS |= {rf"^{prefix}_[0-9a-f]{{32}}$": f"{prefix}_ and 32 hexadecimal digits" for prefix in _PREFIXES}


def in_words(error: Mapping[str, Any]) -> str:
    """Returns the message of a validation error of pydantic, with its pattern in words."""
    pattern = (error.get("ctx") or {}).get("pattern")
    words = _WORDS.get(pattern) if isinstance(pattern, str) else None
    return f"write {words}" if words is not None else plain_message(error)
