"""The edge of a service: who calls, what is decided for them, and what they get back."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError, RetryLaterError
from paybill_contracts.operations import RequestRefused, service_event
from paybill_contracts.personal import Personal
from pydantic import BaseModel
from sqlalchemy import Executable, Row, text
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.types import ASGIApp

from paybill_runtime import clock
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.group_commit import Decide, Decision, ExtraStatements, GroupCommit
from paybill_runtime.decisions.store import Statement
from paybill_runtime.errors import OverloadedError, single_line
from paybill_runtime.http.auth import KeyRing, KeysUnavailableError, Role
from paybill_runtime.http.problems import Problem
from paybill_runtime.security.data_keys import DataKeys, ServiceSeal
from paybill_runtime.security.secrets import Secrets

T = TypeVar("T")
FastRoutes = Mapping[str, ASGIApp]

REFUSALS_PER_MINUTE = 60
"""Refusals of one caller that become facts; the rest are only counted."""

_IDEMPOTENCY = re.compile(r"[\x21-\x7e]{1,200}")
_ANSWERED = text("SELECT digest, answer FROM chassis.idempotency WHERE key = :key")


class IdempotencyKeyReusedError(DomainError):
    """The same Idempotency-Key came with another request."""

    code = "idempotency_key_reused"


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The caller's Idempotency-Key, made unique to the caller, and a digest of what was asked."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller, and the origin of whatever is decided for it."""

    id: str
    role: Role
    origin: Origin
    idempotency: Idempotency | None


class ServiceContext:
    """What a service's routes can do: decide, read, seal. `settings` are the service's own.

    doors: answer a POST to their path past FastAPI, as `direct` says, and raise what routes raise. A route has to be
    there, too: for requests that are not plain, and to be documented.
    """

    def __init__(
        self,
        service: str,
        settings: Any,
        database: Database,
        decider: GroupCommit,
        keys: DataKeys,
        raw: ServiceSeal,
        ring: KeyRing,
        secrets: Secrets,
    ) -> None:
        self.service = service
        self.settings = settings
        self.database = database
        self.secrets = secrets
        self.key_ring = ring
        self._group_commit = decider
        self._keys = keys
        self._raw = raw
        self._refusals: dict[str, tuple[datetime, int]] = {}
        self.backlog: Callable[[], int] = lambda: 0
        self.fast_routes: dict[str, ASGIApp] = {}

    def now(self) -> datetime:
        """The edge reads the clock, so that rules need not."""
        return clock.now()

    async def seal(self, tenant: str, value: str) -> Personal[str]:
        """A personal value, sealed; pass it to `decide(seals=…)` so that its key is stored with what uses it."""
        return await self._keys.seal(tenant, value)

    def seal_raw(self, value: bytes) -> bytes:
        """Bytes that belong to no tenant yet, sealed under the service's own key."""
        return self._raw.seal(value)

    def open_raw(self, value: bytes) -> bytes:
        """The opposite of `seal_raw`."""
        return self._raw.open(value)

    async def rows(self, statement: Executable, values: dict[str, Any] | None = None) -> Sequence[Row[Any]]:
        """The rows of a query. Raises DatabaseUnavailableError."""
        async with self.database.reading() as connection:
            return (await connection.execute(statement, values or {})).all()

    async def decide(
        self,
        origin: Origin,
        decide: Decide[T],
        *,
        writes: Sequence[Key] = (),
        reads: Sequence[Key] = (),
        seals: Sequence[Personal[str]] = (),
        extra_statements: ExtraStatements | None = None,
        leases: dict[str, int] | None = None,
        idempotency: Idempotency | None = None,
        response_type: type[BaseModel] | None = None,
        verb: str = "",
        target: str = "",
    ) -> T:
        """Decide in a transaction (shared with whoever decides at this moment) and commit; the outcome.

        verb, target: name what was tried, so that a refusal is recorded as a fact.
        idempotency, answer: `decide` returns an `answer`, which is kept and given again to the same request.
        """
        if self.backlog() > self.settings.outbox_limit:
            raise OverloadedError("too many facts wait for the bus; come back later")
        earlier: T | None = await self._earlier_response(idempotency, response_type)
        if earlier is not None:
            return earlier
        decision = Decision(
            origin, decide, writes, reads, leases or {}, [extra_statements] if extra_statements is not None else []
        )
        if idempotency is not None:
            decision.extra_statements = [*decision.extra_statements, partial(_keep, idempotency, decision)]
        if seals:
            decision.in_transaction = partial(self._store_keys, seals)
        try:
            outcome = await self._group_commit.decide(decision)
        except DomainError as error:
            # The same request may have been answered meanwhile; then this is what was asked for.
            earlier = await self._earlier_response(idempotency, response_type)
            if earlier is not None:
                return earlier
            if verb and not isinstance(error, RetryLaterError):
                await self._record_refusal(origin, verb, error, target)
            raise
        self._keys.stored(seals)
        return outcome

    async def _store_keys(self, seals: Sequence[Personal[str]], connection: AsyncConnection) -> None:
        for sealed in seals:
            await self._keys.store(connection, sealed)

    async def _earlier_response(self, asked: Idempotency | None, answer: type[BaseModel] | None) -> Any:
        """The answer that was given to the same request, None if it is new. Raises IdempotencyKeyReusedError."""
        if asked is None or answer is None:
            return None
        given = await self.rows(_ANSWERED, {"key": asked.key})
        if not given:
            return None
        if given[0].digest != asked.digest:
            raise IdempotencyKeyReusedError("this Idempotency-Key was used for another request; choose a new one")
        return answer.model_validate_json(given[0].answer)

    async def _record_refusal(self, origin: Origin, verb: str, error: DomainError, target: str) -> None:
        since, count = self._refusals.get(origin.actor, (self.now(), 0))
        if (self.now() - since).total_seconds() > 60:  # noqa: PLR2004  # a minute
            since, count = self.now(), 0
        self._refusals[origin.actor] = (since, count + 1)
        if count >= REFUSALS_PER_MINUTE:
            return
        event = service_event(self.service, RequestRefused)(
            refusal_id=clock.new_id(), verb=verb, code=error.code, target=single_line(target)
        )
        await self._group_commit.decide(Decision(origin, lambda unit, _: unit.emit(event)))


def _keep(asked: Idempotency, decision: Decision[Any], statement: Statement) -> None:
    """Keep an answer with what it answers, in the transaction that makes it true; two at once collide."""
    if isinstance(decision.outcome, BaseModel):
        values = (asked.key, asked.digest, decision.outcome.model_dump_json(), clock.now())
        places = ", ".join(map(statement.value, values))
        statement.add(f"INSERT INTO chassis.idempotency (key, digest, answer, created_at) VALUES ({places})")  # noqa: S608


_bearer = HTTPBearer(auto_error=False, description="An API key: `pbk_…`")


def caller(role: Role, scope: str) -> Callable[..., Any]:
    """A dependency that lets a request in only with a key of at least `role` for `scope`."""

    async def check(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> Caller:
        context: ServiceContext = request.app.state.context
        if credentials is None:
            raise Problem(401, "no_key", "send an API key as `Authorization: Bearer pbk_…`")
        try:
            key = context.key_ring.find(credentials.credentials, context.now())
        except KeysUnavailableError as error:
            raise Problem(503, "keys_unavailable", "nobody can be let in now; send it again later") from error
        if key is None:
            raise Problem(401, "wrong_key", "this API key is unknown or has expired; ask an admin for a new one")
        if not key.allows(role, scope):
            raise Problem(403, "wrong_scope", f"this needs the role {role.name.lower()} and the scope {scope}")
        given = None
        if idempotency_key is not None:
            if _IDEMPOTENCY.fullmatch(idempotency_key) is None:
                raise Problem(400, "invalid_idempotency_key", "an Idempotency-Key is 1 to 200 visible ASCII characters")
            asked = f"{request.method} {request.url.path}\n".encode() + await request.body()
            given = Idempotency(f"{key.id}/{idempotency_key}", sha256(asked).hexdigest())
        return Caller(key.id, key.may, origin_of(request, f"operator:{key.id}"), given)

    return check


def origin_of(request: Request, actor: str) -> Origin:
    """The origin of what a request leads to: the request is its own first cause."""
    request_id = request.scope["paybill.request_id"]
    return Origin(request_id, request_id, actor, request.scope["paybill.traceparent"])
