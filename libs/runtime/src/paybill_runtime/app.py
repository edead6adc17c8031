"""Service: builds the parts of a service from its declaration, and runs them."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Any, Self

from fastapi import APIRouter, FastAPI
from sqlalchemy import text

from paybill_runtime import clock
from paybill_runtime.database.leases import RELAY, Leases
from paybill_runtime.database.pool import Database
from paybill_runtime.database.retry import retry_until_available
from paybill_runtime.database.statement import NOTIFY_CHANNEL
from paybill_runtime.decisions.aggregates import AnyStored
from paybill_runtime.decisions.announcement import announce
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.group_commit import GroupCommit
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.outbox import COUNT_UNPUBLISHED
from paybill_runtime.decisions.restore_guard import RestoreGuard
from paybill_runtime.decisions.store import Store
from paybill_runtime.diagnosis import routes as diagnosis
from paybill_runtime.diagnosis.invariants import InvariantChecks, Invariants, aggregate_of
from paybill_runtime.diagnosis.measurements import Measurements, StateCount
from paybill_runtime.diagnosis.tenant_part import ReadState
from paybill_runtime.errors import DatabaseUnavailableError, reason
from paybill_runtime.http import dry_run, problems
from paybill_runtime.http.auth import KeyRing
from paybill_runtime.http.documented_app import documented_app
from paybill_runtime.http.fast_route import FastRoutes
from paybill_runtime.http.limits import MAX_CONCURRENT_REQUESTS, ConcurrencyLimit
from paybill_runtime.http.middleware import RequestMiddleware, ignore
from paybill_runtime.jobs import routes as job_routes
from paybill_runtime.jobs.effect_runner import EffectRunner
from paybill_runtime.jobs.effects import DueJob, JobRegistry, Timer
from paybill_runtime.jobs.kinds import Kind
from paybill_runtime.jobs.queue import JobQueue
from paybill_runtime.jobs.timers import Timers
from paybill_runtime.jobs.worker import Worker
from paybill_runtime.loops import Loops
from paybill_runtime.messaging import asyncapi, operations
from paybill_runtime.messaging.api_key_copies import ApiKeyCopies
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.consumer import Consumer, sources
from paybill_runtime.messaging.foreign_facts import ForeignFacts
from paybill_runtime.messaging.key_bucket import KeyBucket
from paybill_runtime.messaging.key_recipients import KeyRecipients
from paybill_runtime.messaging.known_keys import KeyDirectory
from paybill_runtime.messaging.log_audit import LogAudit
from paybill_runtime.messaging.message import STREAM_LEASE
from paybill_runtime.messaging.processor import MessageProcessor
from paybill_runtime.messaging.publication_spans import FactDuration, PublicationSpans
from paybill_runtime.messaging.relay import Relay
from paybill_runtime.messaging.retry_queue import RetryQueue
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.messaging.voided_facts import VoidedFacts
from paybill_runtime.messaging.write_probes import WriteProbes
from paybill_runtime.replay.formats import migrate_states
from paybill_runtime.security.data_keys import RECIPIENTS, DataKeys, ServiceSeal
from paybill_runtime.security.identity import Identity
from paybill_runtime.security.secrets import FileSecrets, Secrets
from paybill_runtime.security.signing_identity import SigningIdentity, load_root
from paybill_runtime.settings import ServiceSettings, read_secret
from paybill_runtime.telemetry import exporting

log = logging.getLogger(__name__)

Lifespan = Callable[[ServiceContext], AbstractAsyncContextManager[None]]

STALL_TIMEOUT_S = 5.0
"""Time that a connected broker may accept no facts, after the first failure, before the service is unready.

A cluster elects a new leader in less. A longer stall is a server whose disk has failed: JetStream then answers
consumers and no publisher, until it is restarted on a disk that works.
"""


@contextlib.asynccontextmanager
async def _no_lifespan(_: ServiceContext) -> AsyncIterator[None]:
    yield


@dataclass(frozen=True)
class Service:
    """The declaration of a service, in its app.py.

    states: none for a service that only reads. effects: builds the clients of other systems that `jobs` use.
    lifespan: owns resources; entered before anything runs, left after every loop has ended.
    on_start: decisions that run once after the migration, and again while PostgreSQL is unavailable.
    job_kinds: kinds of jobs beside effects and timers. singleton_leases: leases that they need beside the partitions.
    incidents: one of `states`; with it the service serves `/v1/incidents`. invariants: checked by jobs of the service.
    read_state: with it the service serves `/v1/why/{tenant}`. counts, durations: its own metrics (docs/telemetry.md).
    accepts_agents: routes of the service may accept keys of agents, which every other service refuses as unknown.
    gather_facts_s: seconds for which the relay gathers facts after a round, when many are recorded and nobody waits.
    """

    name: str
    settings: type[ServiceSettings]
    router: Callable[[ServiceContext], APIRouter]
    states: Sequence[AnyStored] = ()
    subscriptions: Subscriptions = field(default_factory=Subscriptions)
    jobs: JobRegistry = field(default_factory=JobRegistry)
    timers: Sequence[Timer | DueJob] = ()
    effects: Callable[[Any, Secrets], Any] = lambda _settings, _secrets: None
    lifespan: Lifespan = _no_lifespan
    on_start: Sequence[Callable[[ServiceContext], Awaitable[None]]] = ()
    job_kinds: Callable[[ServiceContext], Sequence[Kind]] = lambda _context: ()
    singleton_leases: Sequence[str] = ()
    incidents: Incidents | None = None
    invariants: Invariants | None = None
    read_state: ReadState | None = None
    counts: Sequence[StateCount] = ()
    durations: Sequence[FactDuration] = ()
    accepts_agents: bool = False
    gather_facts_s: float = 0

    def __post_init__(self) -> None:
        """Registers the event types of the service."""
        import_module(f"paybill_contracts.{self.name.replace('-', '_')}")


class Running:
    """A running service. Use `async with`: everything that it started ends with the block."""

    def __init__(self, service: Service, settings: ServiceSettings) -> None:
        self.service = service
        self.settings = settings
        self.owner = f"{service.name}-{clock.new_id()}"
        password = read_secret(settings.database_password_file)
        self.database = Database(settings.database_url, password, self.owner, settings.database_connections)
        self.broker = Broker(settings.nats_url, settings.nats_user, read_secret(settings.nats_password_file))
        self.identity = Identity.load(settings.identity_dir, service.name)
        self.signing = SigningIdentity.load(settings.identity_dir, service.name)
        self.key_ring = KeyRing(settings.api_keys_file)
        self.invariant_checks = InvariantChecks(service.invariants, settings)
        self.store = Store(
            service.states,
            service.jobs.required_jobs,
            self._is_held,
            self.signing.sign,
            self.invariant_checks.job_requests,
        )
        singletons = [*service.singleton_leases, *([STREAM_LEASE] if service.subscriptions.stream_handler else [])]
        self.leases = Leases(self.database, self.owner, settings.lease_s, singletons)
        self.key_bucket = KeyBucket(service.name, self.identity, self.database, self.broker)
        self.api_key_copies = ApiKeyCopies(self.database, self.broker, self.key_ring, of_agents=service.accepts_agents)
        self.data_keys = DataKeys(service.name, self.identity, self.database, self.key_bucket.fetch)
        self.restore_guard = RestoreGuard()
        self.group_commit = GroupCommit(service.name, self.database, self.store, self._on_commit, self.restore_guard)
        self._foreign_facts = foreign_facts = ForeignFacts(service.name, service.incidents, self.group_commit)
        self.voided = VoidedFacts(
            KeyDirectory(load_root(settings.identity_dir), settings.signed_from_sequence),
            self.signing.announcement.key_id,
        )
        self.relay = Relay(
            service.name,
            self.database,
            self.broker,
            self.leases,
            self.key_bucket.publish_new,
            self.restore_guard,
            PublicationSpans(self.database, service.durations, aggregate_of(service.invariants)),
            foreign_facts,
            self.voided,
            self.signing.sign,
            service.gather_facts_s,
        )
        self.log_audit = LogAudit(service.name, self.database, self.broker, self.relay, foreign_facts, self.voided)
        secrets = FileSecrets(settings.secrets_dir, self.identity)
        self.effects = service.effects(settings, secrets)
        self.jobs = JobQueue(service.name, self.database, self.group_commit)
        self.processor = MessageProcessor(
            service.name,
            service.subscriptions,
            self.database,
            self.store,
            self.group_commit,
            self.restore_guard,
            settings,
            service.incidents,
        )
        self.retry_queue = RetryQueue(self.processor, self.store, self._on_commit)
        self.context = ServiceContext(
            service.name,
            settings,
            self.database,
            self.group_commit,
            self.data_keys,
            ServiceSeal(self.identity),
            secrets,
            self.key_ring,
        )
        self.consumers = {
            name: Consumer(source, self.processor, self.broker, self.leases, self.voided)
            for name, source in sources(service.subscriptions).items()
        }
        self.timers = Timers(
            service.timers, service.name, self.database, self.group_commit, self.leases, self.context.jobs_requested
        )
        self.effect_runner = EffectRunner(
            service.name,
            service.jobs,
            self.effects,
            self.database,
            self.group_commit,
            self.jobs,
            self.data_keys,
            self.processor.handled,
        )
        kinds = [
            *self.effect_runner.kinds(),
            *self.timers.kinds(),
            self.retry_queue.kind(),
            *self.processor.kinds(),
            *([self.key_bucket.renewal()] if service.name in RECIPIENTS else []),
            self.jobs.cleanup(settings),
        ]
        kinds += self.invariant_checks.kinds(self.database, self.group_commit)
        due_kinds = {timer.kind for timer in service.timers if isinstance(timer, DueJob)}
        kinds += [
            replace(kind, derived=True, after=self.timers.wake) if kind.name in due_kinds else kind
            for kind in service.job_kinds(self.context)
        ]
        self.write_probes = WriteProbes(service.name, self.database, self.broker, has_intake="intake" in self.consumers)
        self.worker = Worker(self.jobs, kinds, self.leases, self.restore_guard)
        self.loops = Loops()
        self._app: FastAPI | None = None
        self._resources = AsyncExitStack()
        self.request_limit = ConcurrencyLimit(MAX_CONCURRENT_REQUESTS)
        self._backlog, self._committed = 0, True
        self._progress_at = time.monotonic()
        self.context.backlog = lambda: self._backlog
        self.context.wake_worker = self.worker.wake
        self.context.is_held = self._is_held
        self.processor.on_commit = self._on_commit

    def _on_commit(self, *, requires_jobs: bool) -> None:
        """Wakes what waits for commits, of this process or of another replica that sent a notice."""
        self._committed = True
        self.relay.wake()
        self.timers.wake()
        if requires_jobs:
            self.worker.wake()

    def _is_held(self, lease: str) -> bool:
        return self.leases.certain and lease in self.leases.held

    def health(self) -> dict[str, str]:
        """Returns the state of each loop: `ok`, or the problem. A loop that ended makes the service unready.

        A problem of publishing is the state of `bus`, which at first only degrades the service: facts wait in the
        outbox. So does a fault of loops, which is the state of `loops` until they have recovered. That PostgreSQL and
        INTAKE take writes is the result of the last test.
        """
        tasks = self.loops.tasks.items()
        checks = {name: "ok" if not task.done() else "stopped" for name, task in tasks if name != "connect"}
        if problem := self.loops.problem:
            checks["loops"] = problem
        checks["bus"] = (self.relay.problem or "ok") if self.broker.connected.is_set() else "away"
        if time.monotonic() - self._progress_at > STALL_TIMEOUT_S and checks["bus"] not in {"ok", "away"}:
            checks["relay"] = self.relay.problem
        mismatches = self.restore_guard.mismatches
        checks |= {"relay" if component == RELAY else "reader": mismatch for component, mismatch in mismatches.items()}
        return checks | self.write_probes.results

    async def __aenter__(self) -> Self:
        """Migrates, then starts every loop. The names of loops are keys of the health checks."""
        try:
            await self._resources.enter_async_context(self.service.lifespan(self.context))
            await retry_until_available(partial(migrate_states, self.database, self.service))
            await retry_until_available(self.api_key_copies.load)
            self.loops.start("decider", self.group_commit.run)
            self.loops.start("connect", self.broker.run)
            await retry_until_available(partial(announce, self.signing, self.database, self.group_commit))
            await retry_until_available(self.leases.tick)
            for act in self.service.on_start:
                await retry_until_available(partial(act, self.context))
            await retry_until_available(partial(self.jobs.request_recurring, self.worker.kinds.values()))
            await retry_until_available(self.retry_queue.request_all)
        except BaseException:
            await self.__aexit__()
            raise
        self.loops.start("leases", self.leases.run)
        self.loops.start("relay", self.relay.run)
        self.loops.start("log_audit", self.log_audit.run)
        self.loops.start("voided", partial(self.voided.follow, self.broker, self._foreign_facts.close))
        for name, consumer in self.consumers.items():
            self.loops.start(name, consumer.run)
        self.loops.start("api_keys", self.api_key_copies.run)
        self.loops.start("worker", self.worker.run)
        on_notice = partial(self._on_commit, requires_jobs=True)
        self.loops.start("notices", partial(self.database.listen, NOTIFY_CHANNEL, on_notice))
        if self.service.timers:
            self.loops.start("timers", self.timers.run)
        self.loops.start("backlog", self._measure_backlog)
        self.loops.start("refusals", self.context.refusal_facts.run)
        self.loops.start("write_probes", self.write_probes.run)
        if exporting():
            counts, folder = self.service.counts, self.settings.secrets_dir
            measured = Measurements(self.database, self.leases, self._lag, self._stream_consumers, counts, folder)
            self.loops.start("measurements", measured.run)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops every loop, closes the service's resources, and releases the leases."""
        await self.loops.end()
        try:
            await self._resources.aclose()
        except Exception:
            log.exception("the resources of the service cannot be closed")
        try:
            await self.leases.release_all()
        except Exception as error:  # noqa: BLE001  # they expire by themselves, and the rest has to be closed
            log.warning("leases are not released: %s", reason(error))
        await self.broker.close()
        await self.database.close()

    def app(self) -> FastAPI:
        """Returns the ASGI application of the service; it is built once."""
        if self._app is None:
            self._app = self._build_app()
        return self._app

    def _build_app(self) -> FastAPI:
        routers = [
            operations.probes(self.service.name, self._alive, self.health),
            operations.operations(
                self.context, self.retry_queue, self.health, self._lag, self._test_writes, self.worker.kinds
            ),
            asyncapi.route(self.service.name, self.service.subscriptions, of_agents=self.service.accepts_agents),
            job_routes.routes(self.service.name, self.jobs, self.worker.kept, self.effect_runner.cancelled),
            self.service.router(self.context),
        ]
        incidents, violations = self.service.incidents, self.invariant_checks.violations
        read_state, bus_answers = self.service.read_state, self.broker.answers
        routers += diagnosis.routes(
            self.context, incidents, violations, read_state, self.health, self._lag, bus_answers
        )
        if self.service.name in RECIPIENTS:
            recipients = KeyRecipients(self.service.name, self.database, self.store, self._on_commit)
            routers.append(operations.key_recipients(self.service.name, recipients))
        app = documented_app(
            self.service.name,
            # Not by include_router: at each level it builds every route once more, and searches them level by level.
            routes=[route for router in routers for route in router.routes],
            version="1",
            redoc_url=None,
            telemetry={"operation_spans": False, "logs": False},  # one span for a request; our own log lines
        )
        app.state.key_ring = self.key_ring
        problems.install(app)
        dry_run.install(app)
        app.add_middleware(RequestMiddleware, limit=self.request_limit, mismatch=self._mismatch)
        return app

    def fast_routes(self) -> FastRoutes:
        """Returns the endpoints that are answered without FastAPI; complete after `app`."""
        return {
            path: RequestMiddleware(
                endpoint, self.request_limit, self._mismatch, path, self.context.bodies_refused.get(path, ignore)
            )
            for path, endpoint in self.context.fast_routes.items()
        }

    def _mismatch(self) -> str:
        return self.restore_guard.problem

    async def _lag(self) -> dict[str, int | None]:
        return {name: await consumer.lag() for name, consumer in self.consumers.items()}

    async def _stream_consumers(self) -> dict[str, int]:
        streams = {consumer.stream for consumer in self.consumers.values()}
        return {stream: await self.broker.consumers(stream) for stream in streams}

    async def _test_writes(self) -> dict[str, str]:
        await self.write_probes.test()
        events = (self.relay.problem or "ok") if self.broker.connected.is_set() else "NATS is unreachable"
        return self.write_probes.results | {"events": events}

    async def _alive(self) -> None:
        async with self.database.reading() as connection:
            await connection.execute(text("SELECT 1"))

    async def _measure_backlog(self) -> None:
        while True:
            if not self.relay.problem or not self.broker.connected.is_set():
                self._progress_at = time.monotonic()
            if self._committed or self._backlog:
                self._committed = False
                with contextlib.suppress(DatabaseUnavailableError):
                    self._backlog = (await self.context.rows(COUNT_UNPUBLISHED))[0][0]
            await asyncio.sleep(1)
