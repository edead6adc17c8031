"""Authenticated callers of HTTP routes, and their Idempotency-Key."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from paybill_contracts.envelope import Origin

from paybill_runtime import clock
from paybill_runtime.database.dry_run import NoDryRunError, request_dry_run
from paybill_runtime.http.auth import KeyRing, KeysUnavailableError, Role
from paybill_runtime.http.problems import Problem

_SAFE = {"GET", "HEAD"}
_IDEMPOTENCY = re.compile(r"[\x21-\x7e]{1,200}")
_bearer = HTTPBearer(auto_error=False, description="An API key: `pbk_…`")


@dataclass(frozen=True, slots=True)
class Idempotency:
    """An Idempotency-Key, unique to the caller, and the digest of the request."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller, and the origin of the facts that its request leads to.

    id: of the key, which the origin names as the actor. subject: the person or the program that uses it; two callers
    with one subject are one person.
    """

    id: str
    role: Role
    origin: Origin
    idempotency: Idempotency | None
    subject: str
    scopes: frozenset[str]


def caller(role: Role, scope: str, *, has_dry_run: bool = True) -> Callable[..., Any]:
    """Returns a FastAPI dependency that requires an API key with at least `role` for `scope`.

    has_dry_run: False for routes that call another system before they decide.
    """

    async def check(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
        idempotency_key: Annotated[str | None, Header()] = None,
        *,
        dry_run: Annotated[
            bool, Header(description="Decides, and returns the facts and the result (`DryRunView`) without recording.")
        ] = False,
    ) -> Caller:
        key_ring: KeyRing = request.app.state.key_ring
        if credentials is None:
            raise Problem(401, "no_key", "send an API key as `Authorization: Bearer pbk_…`")
        try:
            key = key_ring.find(credentials.credentials, clock.now())
        except KeysUnavailableError as error:
            raise Problem(503, "keys_unavailable", "API keys cannot be checked now; send it again later") from error
        if key is None:
            raise Problem(401, "wrong_key", "this API key is unknown, revoked or expired; ask an admin for a new one")
        if not key.allows(role, scope):
            raise Problem(403, "wrong_scope", f"this needs the role {role.name.lower()} and the scope {scope}")
        changes = request.method not in _SAFE
        if dry_run and changes and not has_dry_run:
            raise NoDryRunError
        request_dry_run(requested=dry_run and changes)
        idempotency = None
        if idempotency_key is not None:
            if _IDEMPOTENCY.fullmatch(idempotency_key) is None:
                raise Problem(400, "invalid_idempotency_key", "an Idempotency-Key is 1 to 200 visible ASCII characters")
            content = f"{request.method} {request.url.path}\n".encode() + await request.body()
            idempotency = Idempotency(f"{key.id}/{idempotency_key}", sha256(content).hexdigest())
        origin = origin_of(request, f"operator:{key.id}")
        return Caller(key.id, key.may, origin, idempotency, key.subject, frozenset(key.scopes))

    return check


def origin_of(request: Request, actor: str) -> Origin:
    """Returns the origin of the facts that a request leads to: the request is its own first cause."""
    request_id: str = request.scope.get("paybill.request_id") or clock.new_id()
    request.scope["paybill.request_id"] = request_id
    return Origin(request_id, request_id, actor, request.scope["paybill.traceparent"])
