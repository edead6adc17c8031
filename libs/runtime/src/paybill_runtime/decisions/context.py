"""Service context: the interface of routes, jobs and hooks to decisions, queries, encryption and secrets."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import ConflictError, DomainError, RetryLaterError
from paybill_contracts.operations import RequestRefused, service_event
from paybill_contracts.personal import Personal
from pydantic import BaseModel, ValidationError
from sqlalchemy import Executable, Row, text
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.types import ASGIApp, Scope

from paybill_runtime import clock
from paybill_runtime.database.dry_run import is_dry_run
from paybill_runtime.database.pool import Database
from paybill_runtime.database.statement import NOTIFY_CHANNEL, ExtraStatements, Statement
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.group_commit import Decide, Decision, GroupCommit
from paybill_runtime.decisions.journeys import journeys
from paybill_runtime.decisions.refusal_facts import RefusalFacts
from paybill_runtime.errors import OverloadedError, single_line
from paybill_runtime.http.auth import KeyRing
from paybill_runtime.http.caller import Idempotency
from paybill_runtime.http.dry_run import DryRunEnded
from paybill_runtime.security.data_keys import DataKeys, ServiceSeal
from paybill_runtime.security.secrets import Secrets
from paybill_runtime.telemetry import TraceLink

T = TypeVar("T")

_RESPONSE = text("SELECT digest, answer FROM chassis.idempotency WHERE key = :key")
DELETE_RESPONSES = text(
    "DELETE FROM chassis.idempotency WHERE key IN "
    "(SELECT key FROM chassis.idempotency WHERE created_at < :before LIMIT :limit)"
)
"""Deletes responses that were stored before a time."""


class IdempotencyKeyReusedError(DomainError):
    """The same Idempotency-Key was sent with another request."""

    code = "idempotency_key_reused"


class EarlierResponseError(ConflictError):
    """An earlier version answered the same request, and this one returns more."""

    code = "answered_before_upgrade"


class ServiceContext:
    """Decides, queries and encrypts for one service. `settings` are the service's own.

    key_ring: the API keys that this process accepts. refusal_facts: of requests that decisions refuse.
    fast_routes: ASGI endpoints that answer a POST to their path without FastAPI (see `http.fast_route`), and raise what
    routes raise. Each needs an ordinary route too, for the documentation. bodies_refused: by the path of a fast route,
    a function that is called for each request whose body is too large.
    """

    def __init__(
        self,
        service: str,
        settings: Any,
        database: Database,
        group_commit: GroupCommit,
        data_keys: DataKeys,
        service_seal: ServiceSeal,
        secrets: Secrets,
        key_ring: KeyRing,
    ) -> None:
        self.service = service
        self.settings = settings
        self.database = database
        self.secrets = secrets
        self.key_ring = key_ring
        self._group_commit = group_commit
        self._data_keys = data_keys
        self._service_seal = service_seal
        self.refusal_facts = RefusalFacts(self._record_refused)
        self.backlog: Callable[[], int] = lambda: 0
        self.wake_worker: Callable[[str], None] = lambda _: None
        self.is_held: Callable[[str], bool] = lambda _: False
        self.fast_routes: dict[str, ASGIApp] = {}
        self.bodies_refused: dict[str, Callable[[Scope], None]] = {}

    async def jobs_requested(self, lease: str, kind: str = "") -> None:
        """Wakes the worker that holds a lease, after a statement of one's own has requested jobs under it.

        kind: as of `Worker.wake`.
        """
        if self.is_held(lease):
            self.wake_worker(kind)
        else:
            await self.database.notify(NOTIFY_CHANNEL)

    def now(self) -> datetime:
        """Returns the current time; rules take it as an argument."""
        return clock.now()

    async def seal(self, tenant: str, value: str) -> Personal[str]:
        """Seals a personal value; pass the result to `decide(seals=…)` so that its key is stored with the decision."""
        return await self._data_keys.seal(tenant, value)

    async def open(self, value: Personal[str]) -> str:
        """Returns a personal value in plain text; do not store it. Raises UnsealingError after its key is deleted."""
        return await self._data_keys.open(value)

    def seal_raw(self, value: bytes) -> bytes:
        """Seals bytes that belong to no tenant yet under the service's own key."""
        return self._service_seal.seal(value)

    def open_raw(self, value: bytes) -> bytes:
        """Opens the result of `seal_raw`."""
        return self._service_seal.open(value)

    async def rows(self, statement: Executable, values: dict[str, Any] | None = None) -> Sequence[Row[Any]]:
        """Returns the rows of a query. Raises DatabaseUnavailableError."""
        async with self.database.reading() as connection:
            return (await connection.execute(statement, values or {})).all()

    async def journeys(self, keys: Sequence[Key]) -> dict[Key, TraceLink]:
        """Returns links to the first facts of these aggregates; nothing without an OTLP endpoint."""
        return await journeys(self.database, keys)

    async def decide(
        self,
        origin: Origin,
        decide: Decide[T],
        *,
        writes: Sequence[Key] = (),
        reads: Sequence[Key] = (),
        seals: Sequence[Personal[str]] = (),
        extra_statements: ExtraStatements | None = None,
        leases: Mapping[str, int] | None = None,
        idempotency: Idempotency | None = None,
        response_type: type[BaseModel] | None = None,
        verb: str = "",
        target: str = "",
        tenant_id: str | None = None,
    ) -> T:
        """Decides and commits, in a transaction that concurrent decisions share; returns the outcome.

        verb, target: name the attempt, so that a refusal is recorded as a fact. tenant_id: the tenant that it is about.
        idempotency, response_type: `decide` returns a `response_type`, which is stored and returned again for the same
        request. A dry run stores none. It raises DryRunEnded instead of committing or of returning a stored response,
        and the same refusals, which are not recorded.
        """
        if self.backlog() > self.settings.outbox_limit:
            raise OverloadedError("too many facts wait in the outbox; send it again later")
        earlier: T | None = await self._earlier_response(idempotency, response_type)
        if earlier is not None:
            if is_dry_run():
                raise DryRunEnded([], earlier, already_executed=True)
            return earlier
        if is_dry_run():
            idempotency = None
        extra = [extra_statements] if extra_statements is not None else []
        decision = Decision(origin, decide, writes, reads, leases or {}, extra)
        if idempotency is not None:
            decision.extra_statements = [*extra, partial(_store_response, idempotency, decision)]
        if seals:
            decision.in_transaction = partial(self._store_keys, seals)
        try:
            outcome = await self._group_commit.decide(decision)
        except DomainError as error:
            # A concurrent copy of the request may have been answered; its response is the response to this one.
            earlier = await self._earlier_response(idempotency, response_type)
            if earlier is not None:
                return earlier
            if verb and not isinstance(error, RetryLaterError) and not is_dry_run():
                await self._record_refusal(origin, verb, error, target, tenant_id)
            raise
        self._data_keys.stored(seals)
        return outcome

    async def _store_keys(self, seals: Sequence[Personal[str]], connection: AsyncConnection) -> None:
        for sealed in seals:
            await self._data_keys.store(connection, sealed)

    async def _earlier_response(self, request: Idempotency | None, response_type: type[BaseModel] | None) -> Any:
        """Returns the response to the same request; None if it is new.

        Raises IdempotencyKeyReusedError, EarlierResponseError.
        """
        if request is None or response_type is None:
            return None
        rows = await self.rows(_RESPONSE, {"key": request.key})
        if not rows:
            return None
        if rows[0].digest != request.digest:
            raise IdempotencyKeyReusedError("this Idempotency-Key was used for another request; choose a new one")
        try:
            return response_type.model_validate_json(rows[0].answer)
        except ValidationError as error:
            raise EarlierResponseError("this request was carried out before an upgrade; read its result") from error

    async def _record_refusal(
        self, origin: Origin, verb: str, error: DomainError, target: str, tenant_id: str | None
    ) -> None:
        refused = service_event(self.service, RequestRefused)(
            refusal_id=clock.new_id(),
            verb=verb,
            code=error.code,
            target=single_line(target),
            tenant_id=tenant_id,
            caller=origin.actor,
        )
        await self.refusal_facts.add(origin, refused)

    async def _record_refused(self, origin: Origin, refused: RequestRefused) -> None:
        await self._group_commit.decide(Decision(origin, lambda unit, _: unit.emit(refused)))


def _store_response(request: Idempotency, decision: Decision[Any], statement: Statement) -> None:
    """Stores the response in the transaction of its decision; two concurrent copies of a request conflict."""
    if isinstance(decision.outcome, BaseModel):
        values = (request.key, request.digest, decision.outcome.model_dump_json(), clock.now())
        placeholders = ", ".join(map(statement.value, values))
        statement.add(f"INSERT INTO chassis.idempotency (key, digest, answer, created_at) VALUES ({placeholders})")  # noqa: S608
