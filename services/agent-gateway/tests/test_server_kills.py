"""PostgreSQL and NATS are killed while agents call; clients repeat their calls until they are answered."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from gateway_world import FILES, World, bundle_of, world
from paybill_agent_gateway.domain.answers import Answer, RefusalError
from paybill_agent_gateway.domain.calls import CallCaller
from paybill_agent_gateway.domain.runs import CLAIM_AFTER, RunEvent
from paybill_agent_gateway.tables import RUNS
from paybill_contracts.agent_bundles import Verb
from paybill_contracts.agent_runs import ActionDone, ActionIntended, RunEnd
from paybill_embedded.nats import NatsServer
from paybill_embedded.postgres import PostgresServer
from paybill_runtime.errors import DatabaseUnavailableError, UnknownOutcomeError
from paybill_runtime.http.listing import load_page
from paybill_runtime.testing import Databases, EventLog, until
from sqlalchemy import text

pytestmark = [pytest.mark.e2e, pytest.mark.own_nats]

TICKETS, KILLS = 60, 2
AT_ONCE = 6
RETRIED = {"outcome_pending", "database_unavailable", "action_voided"}
"""Refusals after which a client repeats its call, under the number that the refusal names."""
BUNDLE = bundle_of(refund=FILES["refund.yaml"].replace("calls: 12", "calls: 1000"))
RECORDED = text("SELECT aggregate, revision FROM chassis.outbox WHERE aggregate LIKE 'run/%'")


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """The gateway's server, which this test may kill."""
    with PostgresServer(tmp_path / "gateway-postgres", durable=False) as server:
        yield server.ensure_databases()


@pytest.fixture
def databases(postgres: PostgresServer) -> Databases:
    return Databases(postgres)


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[PostgresServer]:
    """The server of tenants' databases."""
    with PostgresServer(tmp_path / "tenants-postgres", durable=False) as server:
        yield server.ensure_databases()


@pytest.fixture
async def gateway(start: Any, tenants: PostgresServer) -> AsyncIterator[World]:
    async with world(start, tenants, BUNDLE) as found:
        yield found


async def refunded(gateway: World, agent: CallCaller, ticket: str, codes: Counter[str]) -> None:
    """Refunds a ticket, as a client that repeats each call until it is answered."""
    run, number, step = "", 0, ""

    async def answered() -> bool:
        nonlocal run, number, step
        try:
            if not run:
                answer = await gateway.start(agent, ticket=ticket)
            else:
                values = {"amount": 1200, "reason": ticket} if step == "propose" else {}
                answer = await gateway.take(agent, step, run, number, **values)
        except (DatabaseUnavailableError, UnknownOutcomeError) as error:  # the gateway's own database
            codes[type(error).__name__] += 1
            return False
        except RefusalError as error:
            codes[error.code] += 1
            if error.code not in RETRIED:
                raise
            number = error.seq or number
            return False
        codes["answered"] += 1
        run, number, step = answer.run, answer.seq, answer.next[0].step if answer.next else ""
        return answer.ended == RunEnd.FINISHED

    await until(answered, timeout_s=CLAIM_AFTER.total_seconds() + 60)


@pytest.mark.parametrize("name", ["postgres", "tenants", "nats"])
async def test_a_killed_server_causes_no_second_refund_and_loses_no_fact(
    gateway: World, log: EventLog, request: pytest.FixtureRequest, name: str
) -> None:
    killed: PostgresServer | NatsServer = request.getfixturevalue(name)
    agent, codes = await gateway.tenant(), Counter[str]()
    tickets = [f"k-{number}" for number in range(TICKETS)]
    rows = ", ".join(f"('{agent.tenant_id}', '{each}', 'o-1', 'c-1', 'x', 'x', 'open')" for each in tickets)
    await gateway.pool.execute(f"INSERT INTO product.tickets VALUES {rows}")  # our own values
    waiting = iter(tickets)

    async def client() -> None:
        for ticket in waiting:
            await refunded(gateway, agent, ticket, codes)

    async def kills() -> None:
        for number in range(KILLS):
            least = (number + 1) * 2 * TICKETS // (KILLS + 2)
            await until(lambda least=least: _reached(codes, least))
            await asyncio.to_thread(killed.kill)
            await asyncio.to_thread(killed.start)

    await asyncio.gather(kills(), *(client() for _ in range(AT_ONCE)))

    refunds = await gateway.pool.fetch("SELECT id, reason FROM product.refunds")
    actions = await gateway.pool.fetch("SELECT run FROM paybill_agent.actions WHERE outcome = 'done'")
    recorded = {(row.aggregate, row.revision) for row in await gateway.gate.context.rows(RECORDED)}
    facts = await log.facts(*(each.TYPE for each in get_args(RunEvent)), at_least=len(recorded))
    done = [each.event for each in facts if isinstance(each.event, ActionDone) and each.event.verb is Verb.CREATE]
    assert sorted(reason for _, reason in refunds) == sorted(tickets)
    assert (
        sorted(run for (run,) in actions) == sorted(id_ for id_, _ in refunds) == sorted(each.run_id for each in done)
    )
    assert Counter((each.event.aggregate_id, each.revision) for each in facts) == Counter(recorded)
    assert _have_no_gap(recorded)
    await until(lambda: gateway.settled(agent.tenant_id))
    assert (await load_page(gateway.gate.context, RUNS, None, 1, status="open"))[0] == []


async def _answer(call: Any) -> Answer | None:
    try:
        answer: Answer = await call
    except RefusalError as error:
        if error.code not in RETRIED:
            raise
        return None
    return answer


async def _reached(codes: Counter[str], least: int) -> bool:
    return codes["answered"] >= least


def _have_no_gap(recorded: set[tuple[str, int]]) -> bool:
    revisions: dict[str, set[int]] = defaultdict(set)
    for aggregate, revision in recorded:
        revisions[aggregate].add(revision)
    return all(found == set(range(1, len(found) + 1)) for found in revisions.values())


async def test_nothing_is_intended_while_the_tenants_database_is_away(
    gateway: World, tenants: PostgresServer, log: EventLog
) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")

    def call() -> Any:
        return gateway.take(agent, "propose", run.run, run.seq, amount=1200, reason="broken")

    await asyncio.to_thread(tenants.kill)
    refused = [await gateway.refused(call()) for _ in range(2)]
    state = await gateway.run(run.run)
    await asyncio.to_thread(tenants.start)
    done = await until(lambda: _answer(call()))
    facts = await log.facts("agent-gateway.action_intended")

    assert [each.code for each in refused] == ["database_unavailable"] * 2
    assert (state.intent, state.seq, state.has_written) == (None, run.seq, False)
    assert done.ended == RunEnd.FINISHED
    assert [each.event.seq for each in facts if isinstance(each.event, ActionIntended)] == [run.seq]
    assert await gateway.refunds() == [("o-1", 1200, "broken")]


async def test_a_call_whose_database_goes_away_after_the_intent_is_repeated_under_its_number(
    gateway: World, tenants: PostgresServer, log: EventLog
) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")
    write = gateway.gate.databases.write

    def call() -> Any:
        return gateway.take(agent, "propose", run.run, run.seq, amount=1200, reason="broken")

    async def away(*arguments: Any, **options: Any) -> Any:
        await asyncio.to_thread(tenants.kill)
        gateway.gate.databases.close()  # no statement can be sent any more
        return await write(*arguments, **options)

    gateway.gate.databases.write = away  # type: ignore[method-assign]  # the server is killed at this moment
    refused = await gateway.refused(call())
    gateway.gate.databases.write = write  # type: ignore[method-assign]  # as before
    state = await gateway.run(run.run)
    await asyncio.to_thread(tenants.start)
    done = await until(lambda: _answer(call()))
    repeated = await call()
    facts = await log.facts("agent-gateway.action_intended", at_least=2)

    assert (refused.code, refused.seq, state.intent, state.failed) == ("database_unavailable", run.seq, None, ())
    assert done == repeated
    assert done.ended == RunEnd.FINISHED
    assert [each.event.seq for each in facts if isinstance(each.event, ActionIntended)] == [run.seq] * 2
    assert await gateway.refunds() == [("o-1", 1200, "broken")]
    assert await gateway.pool.fetch("SELECT seq, outcome FROM paybill_agent.actions") == [(run.seq, "done")]


async def test_an_approval_is_kept_while_the_database_is_away(gateway: World, tenants: PostgresServer) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")

    def call() -> Any:
        return gateway.take(agent, "propose", run.run, run.seq, amount=3000, reason="broken")

    waits = await gateway.refused(call())
    assert waits.approval is not None
    await gateway.approve(waits.approval.id, run.run)
    await asyncio.to_thread(tenants.kill)
    refused = await gateway.refused(call())
    await asyncio.to_thread(tenants.start)
    done = await until(lambda: _answer(call()))

    assert (refused.code, done.ended) == ("database_unavailable", RunEnd.FINISHED)
    assert await gateway.refunds() == [("o-1", 3000, "broken")]


async def test_a_session_that_ended_between_two_calls_is_replaced_in_the_next_one(gateway: World) -> None:
    agent = await gateway.tenant()
    login = gateway.endpoints[agent.tenant_id].username
    started = []
    for ticket in ("t-17", "t-18"):
        started.append(await gateway.start(agent, ticket=ticket))
        assert await _ended_sessions(gateway, login)
    done = []
    for run in started:
        done.append(await gateway.take(agent, "propose", run.run, run.seq, amount=1200, reason="broken"))
        assert await _ended_sessions(gateway, login)

    assert [each.ended for each in done] == [RunEnd.FINISHED] * 2
    assert await gateway.refunds() == [("o-1", 1200, "broken"), ("o-2", 1200, "broken")]
    assert [(await gateway.run(run.run)).used.calls for run in started] == [3, 3]


async def _ended_sessions(gateway: World, login: str) -> list[Any]:
    """Ends the sessions of a login, and returns which."""
    statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"
    return await gateway.pool.fetch(statement, login)
