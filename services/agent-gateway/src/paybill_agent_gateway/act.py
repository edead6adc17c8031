"""The choke point: every action of an agent on a tenant's rows goes through `act`.

A call is decided by a pure function, `domain.decision.decide`, in a fixed order: caller; freeze, tenant's state and
entitlement; schema; repeated call; state and number of the call; grants; trust; budget; approval. It decides first on
states in memory, which finds what has to be read, and then in the transaction that records it. What was read counts
only if the second decision needs exactly the same statement: a freeze, a revocation or another call that was committed
in between leads to another decision. A read is one statement and one commit. A write is a commit of the intent, one
statement, and a commit of the outcome. An unknown outcome is claimed, and never read (decision 0043).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self, TypeVar, assert_never

import orjson
from paybill_contracts.agent_bundles import ReadStep
from paybill_contracts.agents import FREEZES
from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError
from paybill_contracts.personal import Personal
from paybill_runtime.decisions.aggregates import Key, Stored
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state

from paybill_agent_gateway.domain import runs
from paybill_agent_gateway.domain.answers import Answer, RefusalError, refusal
from paybill_agent_gateway.domain.approvals import Image, Preview
from paybill_agent_gateway.domain.calls import Call, Take
from paybill_agent_gateway.domain.decision import Verdict, decide
from paybill_agent_gateway.domain.outcomes import claimed, settle
from paybill_agent_gateway.domain.refusals import OutcomePendingError
from paybill_agent_gateway.domain.runs import Run
from paybill_agent_gateway.domain.scenes import (
    AgentNeed,
    BlueprintNeed,
    BundleNeed,
    ConnectionNeed,
    DayNeed,
    Found,
    MissingError,
    Need,
    OpenNeed,
    RowsNeed,
    RunNeed,
    Scene,
    SealNeed,
)
from paybill_agent_gateway.domain.steps import Intended
from paybill_agent_gateway.domain.tenants import TenantAccess, require_endpoint
from paybill_agent_gateway.domain.workflows import CompiledBundle, Tables
from paybill_agent_gateway.effects.connections import Endpoint
from paybill_agent_gateway.effects.tenant_databases import (
    ActionKey,
    Changed,
    Done,
    Refused,
    Repeated,
    TenantDatabases,
    Unknown,
)
from paybill_agent_gateway.refused_calls import RefusedCalls
from paybill_agent_gateway.statements import Statement, compile_read, compile_write
from paybill_agent_gateway.tables import AGENTS, BUNDLES, DAYS, FREEZE_STATES, IN_FORCE, RUNS, TENANTS

T = TypeVar("T")

MAX_VIEWS = 4096
"""States that a process keeps to plan with, the last ones used."""
MAX_STATEMENTS = 4096
MAX_BUNDLES = 64


@dataclass(slots=True)
class Gate:
    """The parts of a process that `act` uses. views: states to plan with; no decision relies on one of them.

    bundles, statements: compiled, by their hash and by what they follow from.
    """

    context: ServiceContext
    databases: TenantDatabases
    views: OrderedDict[Key, Any] = field(default_factory=OrderedDict)
    bundles: dict[BundleNeed, CompiledBundle] = field(default_factory=dict)
    statements: OrderedDict[tuple[str, ...], Statement] = field(default_factory=OrderedDict)
    refused: RefusedCalls = field(default_factory=RefusedCalls)

    @classmethod
    def of(cls, context: ServiceContext, monotonic: Callable[[], float]) -> Self:
        """Builds the gate of a process. monotonic: seconds of a clock that never goes back."""
        return cls(context, TenantDatabases(context.secrets, monotonic))

    def remember(self, key: Key, state: Any) -> None:
        """Keeps a state to plan with."""
        self.views[key] = state
        self.views.move_to_end(key)
        while len(self.views) > MAX_VIEWS:
            self.views.popitem(last=False)


@dataclass(slots=True)
class _Session:
    """One call: the states that it is about, and what was found for it."""

    call: Call
    agents: list[str]
    run_id: str | None = None
    blueprint: str | None = None
    day_id: str | None = None
    earlier_ids: tuple[str, ...] = ()
    found: Found = field(default_factory=Found)
    seals: list[Personal[str]] = field(default_factory=list)

    @property
    def writes(self) -> list[Key]:
        """Keys of the states that the call may change."""
        run = [RUNS.key(self.run_id)] if self.run_id is not None else []
        return run + ([DAYS.key(self.day_id)] if self.day_id is not None else [])

    @property
    def reads(self) -> list[Key]:
        """Keys of the states on which the call depends."""
        keys = [TENANTS.key(self.call.caller.tenant_id), FREEZE_STATES.key(FREEZES), *map(AGENTS.key, self.agents)]
        if self.blueprint is not None:
            keys.append(IN_FORCE.key(self.blueprint))
        return keys + [DAYS.key(each) for each in self.earlier_ids]

    def scene(self, now: datetime, get: Callable[[Stored[Any], str], Any]) -> Scene:
        """Returns the states of the call. get: returns a state."""
        return Scene(
            now=now,
            agents={each: get(AGENTS, each) for each in self.agents},
            tenant=get(TENANTS, self.call.caller.tenant_id),
            freezes=get(FREEZE_STATES, FREEZES),
            blueprint=self.blueprint,
            in_force=get(IN_FORCE, self.blueprint) if self.blueprint is not None else None,
            run_id=self.run_id,
            run=get(RUNS, self.run_id) if self.run_id is not None else None,
            day_id=self.day_id,
            day=get(DAYS, self.day_id) if self.day_id is not None else None,
            earlier={each: get(DAYS, each) for each in self.earlier_ids},
        )


async def act(gate: Gate, call: Call) -> Answer:
    """Executes one call, and returns its answer. Raises RefusalError for every call that is refused."""
    session = _session(gate, call)
    try:
        gate.refused.require(call.caller, gate.context.now())
        await _plan(gate, session)
        while True:
            decided = (await _decided(gate, session)).outcome
            outcome = await _write(gate, session, decided) if isinstance(decided, Intended) else decided
            if isinstance(outcome, Answer):
                return outcome
            if outcome is None or (outcome.code == OutcomePendingError.code and await _claim_if_due(gate, session)):
                continue
            raise outcome
    except RefusalError:
        raise
    except DomainError as error:
        gate.refused.count(call.caller, error, gate.context.now())
        raise refusal(error) from error


def _session(gate: Gate, call: Call) -> _Session:
    """Returns a call with what the process knows already: it saves decisions that would find only this."""
    agents = [call.caller.agent_id] if call.caller.agent_id is not None else []
    session = _Session(call, agents, found=Found(dict(gate.bundles.items())))
    if isinstance(call.request, Take) and runs.is_run_id(call.request.run):
        session.run_id = call.request.run
    tenant: TenantAccess | None = gate.views.get(TENANTS.key(call.caller.tenant_id))
    if tenant is not None and tenant.agents is not None:
        session.blueprint = tenant.agents.blueprint
    return session


async def settle_unknown(gate: Gate, run_id: str, origin: Origin) -> bool:
    """Settles the write of a run whose outcome is unknown: claims its key, and records what the claim finds.

    Returns False while the tenant's database cannot be asked.
    """
    run = await load_state(gate.context, RUNS, run_id)
    if run is None or run.intent is None:
        return True
    tenant = await load_state(gate.context, TENANTS, run.tenant_id)
    if tenant is None or tenant.agents is None or not tenant.is_open:
        return False
    found = await gate.databases.claim(Endpoint.of(tenant.tenant_id, tenant.agents), run_id, run.intent.seq)
    if isinstance(found, Refused):
        return False
    seq, is_done = run.intent.seq, isinstance(found, Done)

    def record(unit: UnitOfWork, at: DecisionContext) -> None:
        current = runs.existing(unit.get(RUNS, run_id), run_id)
        if current.intent is not None and current.intent.seq == seq:
            unit.record(RUNS, run_id, claimed(current, at.now, is_done=is_done))
        gate.remember(RUNS.key(run_id), unit.get(RUNS, run_id))

    await gate.context.decide(origin, record, writes=[RUNS.key(run_id)])
    return True


async def table_drift(gate: Gate, tenant: TenantAccess, tables: Tables) -> dict[str, list[str]] | str:
    """Returns the differences of a tenant's live tables from resources, by table; a code when they are unknown."""
    try:
        found = await gate.databases.drift(Endpoint.of(tenant.tenant_id, require_endpoint(tenant)), tables)
    except DomainError as error:
        return error.code
    return found.code if isinstance(found, Refused) else found


async def _plan(gate: Gate, session: _Session) -> None:
    """Decides on states in memory, to find what the decision needs. Its result is not used."""

    def view(stored: Stored[Any], id_: str) -> Any:
        key = stored.key(id_)
        if stored is RUNS or stored is DAYS:
            return gate.views.get(key)
        return gate.views[key]

    while True:
        try:
            decide(session.scene(gate.context.now(), view), session.call, session.found)
        except MissingError as missing:
            await _fulfil(gate, session, missing.need)
        except (DomainError, KeyError):
            return
        else:
            return


async def _decided(gate: Gate, session: _Session) -> Verdict:
    """Decides about the call on committed states, and commits the facts of the decision."""

    def decide_call(unit: UnitOfWork, _: DecisionContext) -> Verdict | MissingError:
        _remember(gate, session, unit)
        try:
            verdict = decide(session.scene(unit.now, unit.get), session.call, session.found)
        except MissingError as missing:
            return missing
        if verdict.events and session.run_id is not None:
            unit.record(RUNS, session.run_id, verdict.events)
        if verdict.reserved is not None:
            unit.record(DAYS, verdict.reserved.day_id, [verdict.reserved])
        _remember(gate, session, unit)
        return verdict

    return await _until_found(gate, session, decide_call, verb="act", target=session.call.target)


async def _write(gate: Gate, session: _Session, intended: Intended) -> Answer | RefusalError | None:
    """Executes the statement of an intent, and commits its outcome; None when the run continues by itself."""
    need = intended.need
    key, values = ActionKey(*need.key), dict(need.values)
    outcome = await gate.databases.write(
        _endpoint_of(need, session), _statement(gate, need), key, values, intended.image, rows_left=need.rows_left
    )
    if isinstance(outcome, Unknown):
        return refusal(OutcomePendingError("the outcome is not known yet; send the same call again"), run=key.run)
    result: str | Preview | None
    match outcome:
        case Changed():
            result = _preview_of(outcome)
        case Refused():
            result = outcome.code
        case Repeated():
            result = "action_voided" if outcome.voided else None
        case _:
            assert_never(outcome)

    def settle_intent(unit: UnitOfWork, _: DecisionContext) -> Answer | RefusalError | MissingError | None:
        run = runs.existing(unit.get(RUNS, key.run), key.run)
        try:
            events, answer = settle(run, need, result, session.found, unit.now)
        except MissingError as missing:
            return missing
        unit.record(RUNS, key.run, events)
        gate.remember(RUNS.key(key.run), unit.get(RUNS, key.run))
        return answer

    return await _until_found(gate, session, settle_intent)


async def _until_found(
    gate: Gate, session: _Session, decision: Callable[[UnitOfWork, DecisionContext], T | MissingError], **attempt: str
) -> T:
    """Commits a decision; one that needs something else first is made again with it."""
    while True:
        outcome = await gate.context.decide(
            session.call.origin,
            decision,
            writes=session.writes,
            reads=session.reads,
            seals=session.seals,
            verb=attempt.get("verb", ""),
            target=attempt.get("target", ""),
            tenant_id=session.call.caller.tenant_id,
        )
        if not isinstance(outcome, MissingError):
            return outcome
        await _fulfil(gate, session, outcome.need)


async def _fulfil(gate: Gate, session: _Session, need: Need) -> None:
    """Fetches what a decision needs."""
    results = session.found.results
    match need:
        case RunNeed():
            session.run_id = need.run_id
        case AgentNeed():
            session.agents.append(need.agent_id)
        case BlueprintNeed():
            session.blueprint = need.blueprint
        case DayNeed():
            session.day_id, session.earlier_ids = need.day_id, need.earlier_ids
        case BundleNeed():
            results[need] = await bundle_of(gate, need.content_hash)
        case ConnectionNeed():
            refused = await gate.databases.require(Endpoint.of(need.tenant_id, need.endpoint))
            results[need] = refused.code if refused is not None else None
        case SealNeed():
            results[need] = sealed = await gate.context.seal(need.tenant_id, need.text)
            session.seals.append(sealed)
        case OpenNeed():
            results[need] = orjson.loads(await gate.context.open(Personal[str](key=need.key, sealed=need.sealed)))
        case RowsNeed():
            results[need] = await _rows(gate, session, need)
        case _:
            assert_never(need)


async def _rows(gate: Gate, session: _Session, need: RowsNeed) -> Any:
    """Returns the rows of a read or the preview of a write; the code of a refusal by the database."""
    endpoint, statement, values = _endpoint_of(need, session), _statement(gate, need), dict(need.values)
    if isinstance(need.step, ReadStep):
        read = await gate.databases.read(endpoint, statement, values)
        return read.code if isinstance(read, Refused) else read.rows
    shown = await gate.databases.preview(endpoint, statement, ActionKey(*need.key), values, rows_left=need.rows_left)
    match shown:
        case Changed():
            return _preview_of(shown)
        case Refused():
            return shown.code
        case Repeated():
            return "action_voided"


async def bundle_of(gate: Gate, content_hash: str) -> CompiledBundle:
    """Returns a published bundle, compiled. Raises LookupError."""
    need = BundleNeed(content_hash)
    if need not in gate.bundles:
        stored = await load_state(gate.context, BUNDLES, content_hash)
        if stored is None:
            raise LookupError(f"the bundle {content_hash} is in force and not published")
        compiled = await asyncio.to_thread(CompiledBundle.of, content_hash, stored.content)
        while len(gate.bundles) >= MAX_BUNDLES:
            gate.bundles.pop(next(iter(gate.bundles)))
        gate.bundles[need] = compiled
    return gate.bundles[need]


async def _claim_if_due(gate: Gate, session: _Session) -> bool:
    """Settles the unknown outcome of the run when it is old enough; returns whether it is settled."""
    run: Run | None = gate.views.get(RUNS.key(session.run_id or ""))
    if run is None or run.claim_due is None or gate.context.now() < run.claim_due:
        return False
    return await settle_unknown(gate, run.id, session.call.origin)


def _remember(gate: Gate, session: _Session, unit: UnitOfWork) -> None:
    for key in (*session.reads, *session.writes):
        gate.remember(key, unit.states[key].state)


def _statement(gate: Gate, need: RowsNeed) -> Statement:
    """Returns the compiled statement of a step; it depends on the bundles and on the name of the schema alone."""
    schema = need.endpoint.connection.schema_name
    key = (*need.identity, schema)
    found = gate.statements.get(key)
    if found is None:
        if isinstance(need.step, ReadStep):
            found = compile_read(need.step, need.resource, need.condition, schema)
        else:
            found = compile_write(need.step, need.resource, need.condition, schema, need.shown)
        gate.statements[key] = found
        while len(gate.statements) > MAX_STATEMENTS:
            gate.statements.popitem(last=False)
    return found


def _preview_of(found: Changed) -> Preview:
    return Preview(tuple(Image(row.before, row.after) for row in found.rows), found.image, found.other_rows)


def _endpoint_of(need: RowsNeed, session: _Session) -> Endpoint:
    return Endpoint.of(session.call.caller.tenant_id, need.endpoint)
