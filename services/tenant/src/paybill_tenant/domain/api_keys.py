"""API keys: who may create one with which rights, and their revocation."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from paybill_contracts.api_keys import KeyCreated, KeyFact, KeyId, KeyRevoked, KeyRole, Scope, Subject
from paybill_contracts.errors import ConflictError, DomainError, ForbiddenError, NotFoundError
from paybill_contracts.values import Digest, Key, Timestamp

ALL = "*"
"""The scope of all services."""
SERVICES = ("tenant", "billing", "provisioner", "agent-gateway")
SCOPES = (ALL, *(f"{service}:{access}" for service in SERVICES for access in ("read", "write")))
MAX_LIFETIME = timedelta(days=366)
_ROLES = tuple(KeyRole)


class KeyNotFoundError(NotFoundError):
    """There is no API key with this id."""

    code = "key_not_found"


class KeyInFileError(ConflictError):
    """The key is in the file of keys, which no command changes."""

    code = "key_in_file"


class KeyExceedsRightsError(ForbiddenError):
    """A new key would have more rights than the key that creates it."""

    code = "key_exceeds_rights"


class UnknownScopeError(DomainError):
    """A scope names no service of this installation, so that it would give no rights."""

    code = "unknown_scope"


class KeyExpiryError(DomainError):
    """The end of the key has passed, or is too far away."""

    code = "key_expiry_out_of_range"


@dataclass(frozen=True, slots=True)
class Rights:
    """Rights of a key."""

    role: KeyRole
    scopes: Collection[Scope]

    def include(self, other: "Rights") -> bool:
        """Returns whether a key with these rights may do everything that one with the `other` rights may."""
        has_role = _ROLES.index(self.role) >= _ROLES.index(other.role)
        return has_role and (ALL in self.scopes or set(other.scopes) <= set(self.scopes))


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key. sha256: of its secret part. revoked_at, revoked_by: None until it is revoked."""

    id: KeyId
    name: Key
    subject: Subject
    role: KeyRole
    scopes: tuple[Scope, ...]
    sha256: Digest
    created_by: Subject
    created_at: Timestamp
    expires_at: Timestamp
    revoked_by: Subject | None = None
    revoked_at: Timestamp | None = None


def create(request: KeyCreated, creator: Rights, now: datetime) -> list[KeyCreated]:
    """Creates a key. Its rights are at most those of the key that creates it, and it ends within MAX_LIFETIME."""
    if unknown := sorted(set(request.scopes) - set(SCOPES)):
        raise UnknownScopeError(f"{', '.join(unknown)}: no such scope; the scopes are {', '.join(SCOPES)}")
    if not creator.include(Rights(request.role, request.scopes)):
        raise KeyExceedsRightsError(
            f"your key has the role {creator.role} and the scopes {', '.join(sorted(creator.scopes))}; "
            "a key that it creates can have no other rights: choose fewer"
        )
    if not now < request.expires_at <= now + MAX_LIFETIME:
        raise KeyExpiryError(
            f"a key ends after now and within {MAX_LIFETIME.days} days, not at {request.expires_at.isoformat()}"
        )
    return [request]


def revoke(key: ApiKey, by: Subject, now: datetime) -> list[KeyRevoked]:
    """Revokes a key. It cannot be undone; another key can be created."""
    if key.revoked_at is not None:
        return []
    return [KeyRevoked(key_id=key.id, subject=key.subject, revoked_by=by, revoked_at=now)]


def existing(key: ApiKey | None, id_: str, in_file: Collection[str] = ()) -> ApiKey:
    """Returns the key. Raises KeyInFileError for one of the file, and KeyNotFoundError for None."""
    if id_ in in_file:
        raise KeyInFileError(f"{id_} is in the file of keys of the installation; remove it there to revoke it")
    if key is None:
        raise KeyNotFoundError(f"there is no API key {id_}")
    return key


def evolve(key: ApiKey | None, event: KeyFact) -> ApiKey:
    """Returns the key after `event`; only `KeyCreated` may come first."""
    match event:
        case KeyCreated():
            return ApiKey(
                id=event.key_id,
                name=event.name,
                subject=event.subject,
                role=event.role,
                scopes=event.scopes,
                sha256=event.sha256,
                created_by=event.created_by,
                created_at=event.created_at,
                expires_at=event.expires_at,
            )
        case KeyRevoked():
            revoked = existing(key, event.key_id)
            return replace(revoked, revoked_by=event.revoked_by, revoked_at=event.revoked_at)
        case _:
            assert_never(event)
