"""Events of the tenant service about API keys: who uses a key, what it may do, and until when.

No secret is in them: a key is random, and only the hash of its secret part is stored. A subject is the identifier of an
employee or of a program, like the actors in envelopes, and stays in the log in clear (docs/api-keys.md).
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.event import Event
from paybill_contracts.values import Digest, Key, Timestamp

KeyId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,32}$"), Field(examples=["key-0123456789abcdef"])]
"""Id of a key: the second part of `pbk_<id>_<secret>`. It is no secret."""

Subject = Annotated[
    str, StringConstraints(pattern=r"^(user|service):[A-Za-z0-9_.@-]{1,100}$"), Field(examples=["user:staff-17"])
]
"""The person (`user:…`) or the program (`service:…`) that uses a key. Keys with the same subject are one person."""

CallerSubject = Annotated[
    str,
    StringConstraints(pattern=r"^(user|service|agent):[A-Za-z0-9_.@-]{1,100}$"),
    Field(examples=["agent:agt_0123456789abcdef0123456789abcdef", "user:staff-17"]),
]
"""The subject of a caller: a person, a program, or an agent (`agent:…`), whose key the agent gateway made."""

Scope = Annotated[
    str, StringConstraints(pattern=r"^(\*|[a-z][a-z-]{0,31}:(read|write))$"), Field(examples=["tenant:read"])
]
"""`<service>:read`, `<service>:write`, or `*` for all services. A key that is created by command has no other ones."""

Scopes = Annotated[tuple[Scope, ...], Field(min_length=1, max_length=32)]


class KeyRole(StrEnum):
    """Role of a key; each includes the permissions of the ones before it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


class KeyCreated(Event, type="tenant.key_created", version=1, aggregate="api-key", key="key_id"):
    """An API key is valid until `expires_at`. sha256: of its secret part.

    created_by: subject of the key with which it was created.
    """

    key_id: KeyId
    name: Key
    subject: Subject
    role: KeyRole
    scopes: Scopes
    sha256: Digest
    created_by: Subject
    created_at: Timestamp
    expires_at: Timestamp


class KeyRevoked(Event, type="tenant.key_revoked", version=1, aggregate="api-key", key="key_id"):
    """An API key is refused from now on, by every service. revoked_by: subject of the key with which it was revoked."""

    key_id: KeyId
    subject: Subject
    revoked_by: Subject
    revoked_at: Timestamp


KeyFact = KeyCreated | KeyRevoked
