"""The API keys of a stack: the operator's, made once and shown once, and keys that are lent for a while."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from paybill_cli.errors import CliError
from paybill_embedded.credentials import write_private
from paybill_runtime.http.auth import ApiKey, Role, make_key
from pydantic import TypeAdapter, ValidationError

OPERATOR = "operator"
LIFE = timedelta(days=365)

_KEYS = TypeAdapter(dict[str, tuple[ApiKey, ...]])


def operator_key(path: Path, now: datetime, *, new: bool) -> str | None:
    """The operator's key if it was made just now: when there is none that is valid, or a `new` one is wanted.

    A new one ends all that were before. Services see the change without a restart.
    """
    keys = _read(path)
    held = [key for key in keys if key.name == OPERATOR]
    if not new and any(key.expires_at > now for key in held):
        return None
    number = 1 + max((int(key.id.removeprefix("op")) for key in held if key.id[2:].isdigit()), default=0)
    made = make_key(f"op{number}", OPERATOR, Role.ADMIN, ("*",), now + LIFE)
    _write(path, [*(key for key in keys if key.name != OPERATOR), ApiKey.model_validate(made.stored)])
    return made.raw


@contextmanager
def lent_key(path: Path, name: str, role: Role, scopes: tuple[str, ...], life: timedelta) -> Iterator[str]:
    """A key that is valid while the block runs, and for `life` at most."""
    made = make_key(name, name, role, scopes, datetime.now(UTC) + life)
    _write(path, [*_without(path, name), ApiKey.model_validate(made.stored)])
    try:
        yield made.raw
    finally:
        _write(path, _without(path, name))


def _without(path: Path, name: str) -> list[ApiKey]:
    return [key for key in _read(path) if key.name != name]


def _read(path: Path) -> list[ApiKey]:
    try:
        return list(_KEYS.validate_json(path.read_bytes())["keys"])
    except FileNotFoundError:
        return []
    except (OSError, KeyError, ValidationError) as error:
        raise CliError(
            "api_keys_unreadable",
            f"the file of API keys {path} cannot be read",
            why=getattr(error, "strerror", None) or "it is not what this version of paybill writes",
            next="mend it, or remove it to have a new operator's key made",
        ) from error


def _write(path: Path, keys: list[ApiKey]) -> None:
    write_private(path, json.dumps({"keys": [key.model_dump(mode="json") for key in keys]}, indent=2) + "\n")
