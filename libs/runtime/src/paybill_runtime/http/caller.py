"""Authenticated callers of HTTP routes, and their Idempotency-Key."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from paybill_contracts.envelope import Origin
from paybill_contracts.errors import ForbiddenError

from paybill_runtime import clock
from paybill_runtime.database.dry_run import NoDryRunError, request_dry_run
from paybill_runtime.http.auth import ApiKey, KeyRing, KeysUnavailableError, Role
from paybill_runtime.http.problems import Problem

_SAFE = {"GET", "HEAD"}
_IDEMPOTENCY = re.compile(r"[\x21-\x7e]{1,200}")
_bearer = HTTPBearer(auto_error=False, description="An API key: `pbk_…`")


class WrongTenantError(ForbiddenError):
    """The caller is bound to another tenant."""

    code = "wrong_tenant"


@dataclass(frozen=True, slots=True)
class Idempotency:
    """An Idempotency-Key, unique to the caller, and the digest of the request."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller, and the origin of the facts that its request leads to.

    id: of the key, which the origin names as the actor. subject: the person, the program or the agent that uses it;
    two callers with one subject are one person. tenant_id, agent_role: of an agent, which is bound to them, and which
    the origin names as the actor itself; None for every other caller.
    """

    id: str
    role: Role
    origin: Origin
    idempotency: Idempotency | None
    subject: str
    scopes: frozenset[str]
    tenant_id: str | None = None
    agent_role: str | None = None

    def require_tenant(self, tenant_id: str) -> None:
        """Raises WrongTenantError for a caller that is bound to another tenant."""
        if self.tenant_id not in {None, tenant_id}:
            raise WrongTenantError(f"this API key is bound to {self.tenant_id}; it cannot be used for {tenant_id}")


def caller(role: Role, scope: str, *, has_dry_run: bool = True, accepts_bound: bool = False) -> Callable[..., Any]:
    """Returns a FastAPI dependency that requires an API key with at least `role` for `scope`.

    has_dry_run: False for routes that call another system before they decide. accepts_bound: as of `authenticate`.
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
        key = authenticate(key_ring, credentials.credentials, role, scope, accepts_bound=accepts_bound)
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
        return caller_of(key, origin_of(request, actor_of(key)), idempotency)

    return check


def authenticate(key_ring: KeyRing, raw: str, role: Role, scope: str, *, accepts_bound: bool = False) -> ApiKey:
    """Returns the key of a request, which has at least `role` for `scope`. Raises Problem.

    accepts_bound: accepts keys of agents, too. They need the scope `<service>:act` instead, and the route has to
    compare the tenant by `Caller.require_tenant`. Every other route refuses them.
    """
    try:
        key = key_ring.find(raw, clock.now())
    except KeysUnavailableError as error:
        raise Problem(503, "keys_unavailable", "API keys cannot be checked now; send it again later") from error
    if key is None:
        raise Problem(401, "wrong_key", "this API key is unknown, revoked or expired; ask an admin for a new one")
    if key.is_bound:
        if not accepts_bound:
            raise Problem(403, "key_bound_to_tenant", f"this API key belongs to {key.subject}, which may not use this")
        role, scope = Role.VIEWER, f"{scope.partition(':')[0]}:act"
    if not key.allows(role, scope):
        raise Problem(403, "wrong_scope", f"this needs the role {role.name.lower()} and the scope {scope}")
    return key


def actor_of(key: ApiKey) -> str:
    """Returns the actor of the facts of a caller: an agent itself, and of every other caller the key."""
    return key.subject if key.is_bound else f"operator:{key.id}"


def caller_of(key: ApiKey, origin: Origin, idempotency: Idempotency | None = None) -> Caller:
    """Returns the caller with this key."""
    scopes = frozenset(key.scopes)
    return Caller(key.id, key.may, origin, idempotency, key.subject, scopes, key.tenant_id, key.agent_role)


def origin_of(request: Request, actor: str) -> Origin:
    """Returns the origin of the facts that a request leads to: the request is its own first cause."""
    request_id: str = request.scope.get("paybill.request_id") or clock.new_id()
    request.scope["paybill.request_id"] = request_id
    return Origin(request_id, request_id, actor, request.scope["paybill.traceparent"])
