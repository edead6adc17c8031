"""Manages the API keys of a stack: the operator's key, shown once, and temporary keys.

Commands change the file while services read it: each change excludes the others and replaces the file as a whole.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from paybill_embedded.credentials import write_private
from paybill_embedded.lock import sole_writer
from paybill_runtime.http.auth import ApiKey, Role, make_key
from pydantic import TypeAdapter, ValidationError

from paybill_stack.errors import StackError

OPERATOR = "operator"
KEY_LIFETIME = timedelta(days=365)

_KEYS = TypeAdapter(dict[str, tuple[ApiKey, ...]])


def ensure_operator_key(path: Path, now: datetime, *, replace: bool) -> str | None:
    """Creates the operator's key if no valid one exists or with `replace`; returns it only if it was created.

    A new key revokes all earlier keys of the operator. Services see the change without a restart.
    """
    with sole_writer(path):
        keys = _read(path)
        existing = [key for key in keys if key.name == OPERATOR]
        if not replace and any(key.expires_at > now for key in existing):
            return None
        number = 1 + max((int(key.id.removeprefix("op")) for key in existing if key.id[2:].isdigit()), default=0)
        made = make_key(f"op{number}", OPERATOR, Role.ADMIN, ("*",), now + KEY_LIFETIME)
        _write(path, [*(key for key in keys if key.name != OPERATOR), ApiKey.model_validate(made.stored)])
    return made.raw


def operator_keys(path: Path) -> list[ApiKey]:
    """Returns the operator's keys in the file: one, or none where no stack was started."""
    return [key for key in _read(path) if key.name == OPERATOR]


@contextmanager
def temporary_key(
    path: Path, name: str, role: Role, scopes: tuple[str, ...], lifetime: timedelta, subject: str | None = None
) -> Iterator[str]:
    """Creates a key that is valid while the block runs, and for `lifetime` at most.

    subject: who uses it; by default the program with this name.
    """
    made = make_key(name, name, role, scopes, datetime.now(UTC) + lifetime, subject or f"service:{name}")
    _replace(path, name, [ApiKey.model_validate(made.stored)])
    try:
        yield made.raw
    finally:
        _replace(path, name, [])


def _replace(path: Path, name: str, keys: list[ApiKey]) -> None:
    """Replaces the keys with this name."""
    with sole_writer(path):
        _write(path, [*(key for key in _read(path) if key.name != name), *keys])


def _read(path: Path) -> list[ApiKey]:
    try:
        return list(_KEYS.validate_json(path.read_bytes())["keys"])
    except FileNotFoundError:
        return []
    except (OSError, KeyError, ValidationError) as error:
        raise StackError(
            "api_keys_unreadable",
            f"the file of API keys {path} cannot be read",
            why=getattr(error, "strerror", None) or "this version of paybill did not write it",
            next="repair it, or remove it to create a new operator key",
        ) from error


def _write(path: Path, keys: list[ApiKey]) -> None:
    write_private(path, json.dumps({"keys": [key.model_dump(mode="json") for key in keys]}, indent=2) + "\n")
