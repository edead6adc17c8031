"""API keys: hashed, scoped and expiring, with a role and a subject each.

The first key of an installation is in a file; all others are facts of the tenant service, and those of agents of the
agent gateway (`messaging.api_key_copies`).
"""

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
from typing import Annotated, Any, Self

from paybill_contracts.api_keys import CallerSubject, KeyId, KeyRole, Subject
from paybill_contracts.event import explain
from paybill_contracts.values import Key, TenantId
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from paybill_runtime.errors import ConfigurationError

log = logging.getLogger(__name__)

_KEY = re.compile(r"pbk_([A-Za-z0-9-]{1,32})_([A-Za-z0-9_-]{43})")
_SUBJECT: TypeAdapter[str] = TypeAdapter(Subject)
AGENT = "agent:"
"""Begin of the subjects of agents."""


class Role(IntEnum):
    """Roles; each includes the permissions of the ones before it."""

    VIEWER = 1
    OPERATOR = 2
    APPROVER = 3
    ADMIN = 4


class ApiKey(BaseModel):
    """A stored key: only the hash of its secret part. `scopes` are `<service>:<read|write|act>` or `*`.

    subject: the person, the program or the agent that uses it; in a file without one, a person with the name of the
    key. tenant_id, agent_role: of an agent's key, which is bound to them; None for every other key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: KeyId
    name: str
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    role: KeyRole
    scopes: tuple[str, ...]
    subject: CallerSubject
    expires_at: AwareDatetime
    tenant_id: TenantId | None = None
    agent_role: Key | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_subject(cls, values: Any) -> Any:
        """Adds the subject to a key of a file that was written before keys had one."""
        if not isinstance(values, dict) or values.get("subject") is not None:
            return values
        named = f"user:{values.get('name')}"
        return values | {"subject": named if _is_subject(named) else f"user:{values.get('id')}"}

    @model_validator(mode="after")
    def _is_bound_as_an_agent(self) -> Self:
        """Refuses an agent's key that could be used elsewhere, and a binding of any other key."""
        if len({self.is_bound, self.tenant_id is not None, self.agent_role is not None}) > 1:
            raise ValueError("a key has a subject agent:…, tenant_id and agent_role, or none of them")
        if self.is_bound and not all(scope.endswith(":act") for scope in self.scopes):
            raise ValueError("a key of an agent has no scopes but <service>:act")
        return self

    @property
    def is_bound(self) -> bool:
        """True for the key of an agent, which is bound to a tenant and a role of agents."""
        return self.subject.startswith(AGENT)

    @property
    def may(self) -> Role:
        """The role of the key."""
        return Role[self.role.upper()]

    def allows(self, role: Role, scope: str) -> bool:
        """Returns whether this key has at least `role` for `scope`."""
        return self.may >= role and not {"*", scope}.isdisjoint(self.scopes)


def _is_subject(text: str) -> bool:
    try:
        _SUBJECT.validate_python(text)
    except ValidationError:
        return False
    return True


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[ApiKey, ...]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key: `raw` is shown once, `stored` goes into the file of keys."""

    raw: str
    stored: dict[str, Any]


def make_key(
    id_: str, name: str, role: Role, scopes: tuple[str, ...], expires_at: datetime, subject: str | None = None
) -> NewKey:
    """Returns a new random key of 256 bits; at that strength a plain hash is enough.

    subject: by default a person with the name of the key.
    """
    secret = secrets.token_urlsafe(32)
    stored = {
        "id": id_,
        "name": name,
        "sha256": sha256(secret.encode()).hexdigest(),
        "role": role.name.lower(),
        "scopes": list(scopes),
        **({} if subject is None else {"subject": subject}),
        "expires_at": expires_at.isoformat(),
    }
    return NewKey(f"pbk_{id_}_{secret}", stored)


class KeysUnavailableError(Exception):
    """The file of API keys cannot be read, so that every request is refused."""


class KeyRing:
    """The keys that this process accepts: those in a file, and copies of those that were created by command.

    The file is read again when it changes, so that it needs no restart. A key in it has priority over a copy.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, ApiKey] = {}
        self._copies: dict[str, ApiKey] = {}
        self._revoked: set[str] = set()
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
        key = (self._keys.get(match[1]) or self._copies.get(match[1])) if match else None
        digest = sha256(match[2].encode()).hexdigest() if match else ""
        if key is None or not hmac.compare_digest(digest, key.sha256) or key.expires_at <= now:
            return None
        return key

    def in_file(self) -> list[ApiKey]:
        """Returns the keys of the file, which no command revokes. Raises KeysUnavailableError."""
        self._refresh()
        return list(self._keys.values())

    def add(self, key: ApiKey) -> None:
        """Accepts a key that was created by command, unless it is revoked: facts may be repeated."""
        if key.id not in self._revoked:
            self._copies[key.id] = key

    def revoke(self, id_: str) -> None:
        """Refuses a key that was created by command from now on."""
        self._revoked.add(id_)
        self._copies.pop(id_, None)

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
