"""API keys: hashed, scoped and expiring, with a role each."""

import hmac
import json
import logging
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from paybill_contracts.event import explain
from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError

from paybill_runtime.errors import ConfigurationError

log = logging.getLogger(__name__)

_KEY = re.compile(r"pbk_([A-Za-z0-9-]{1,32})_([A-Za-z0-9_-]{43})")


class Role(IntEnum):
    """Roles; each includes the permissions of the ones before it."""

    VIEWER = 1
    OPERATOR = 2
    APPROVER = 3
    ADMIN = 4


class ApiKey(BaseModel):
    """A stored key: only the hash of its secret part. `scopes` are `<service>:<read|write>` or `*`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,32}$")]
    name: str
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    role: Literal["viewer", "operator", "approver", "admin"]
    scopes: tuple[str, ...]
    expires_at: AwareDatetime

    @property
    def may(self) -> Role:
        """The role of the key."""
        return Role[self.role.upper()]

    def allows(self, role: Role, scope: str) -> bool:
        """Returns whether this key has at least `role` for `scope`."""
        return self.may >= role and not {"*", scope}.isdisjoint(self.scopes)


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[ApiKey, ...]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key: `raw` is shown once, `stored` goes into the file of keys."""

    raw: str
    stored: dict[str, Any]


def make_key(id_: str, name: str, role: Role, scopes: tuple[str, ...], expires_at: datetime) -> NewKey:
    """Returns a new random key of 256 bits; at that strength a plain hash is enough."""
    secret = secrets.token_urlsafe(32)
    stored = {
        "id": id_,
        "name": name,
        "sha256": sha256(secret.encode()).hexdigest(),
        "role": role.name.lower(),
        "scopes": list(scopes),
        "expires_at": expires_at.isoformat(),
    }
    return NewKey(f"pbk_{id_}_{secret}", stored)


class KeysUnavailableError(Exception):
    """The file of API keys cannot be read, so that every request is refused."""


class KeyRing:
    """The keys in a file, which is read again when it changes, so that revoking a key needs no restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, ApiKey] = {}
        self._readable = True
        try:
            self._refresh()
        except KeysUnavailableError as error:
            raise ConfigurationError(
                f"the file of API keys {path.name} cannot be read; `paybill up` creates one"
            ) from error.__cause__

    def find(self, raw: str, now: datetime) -> ApiKey | None:
        """Returns the key for `raw`; None when it is unknown, wrong or expired. Raises KeysUnavailableError."""
        self._refresh()
        match = _KEY.fullmatch(raw)
        key = self._keys.get(match[1]) if match else None
        digest = sha256(match[2].encode()).hexdigest() if match else ""
        if key is None or not hmac.compare_digest(digest, key.sha256) or key.expires_at <= now:
            return None
        return key

    def _refresh(self) -> None:
        try:
            state = self._path.stat()
            stamp = (state.st_mtime_ns, state.st_ino, state.st_size)
            if stamp != self._stamp:
                keys = _KeyFile.model_validate(json.loads(self._path.read_bytes())).keys
                self._keys = {key.id: key for key in keys}
                self._stamp = stamp
                self._readable = True
        except (OSError, ValueError) as error:
            self._stamp = None
            if self._readable:
                log.error("%s cannot be read, every request is refused: %s", self._path.name, _without_values(error))  # noqa: TRY400
                self._readable = False
            raise KeysUnavailableError(self._path.name) from error


def _without_values(error: Exception) -> str:
    return explain(error) if isinstance(error, ValidationError) else str(error)
