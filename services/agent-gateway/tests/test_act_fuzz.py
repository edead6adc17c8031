"""Random calls of 32 callers over two processes: no illegal transition, foreign row, unapproved value or overrun.

Long form: PAYBILL_TEST_AGENT_CALLS=20000; PAYBILL_TEST_AGENT_SEED repeats the plan of a run.
"""

import asyncio
import contextlib
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
from gateway_process import GatewayProcess
from gateway_world import World, world
from paybill_agent_gateway.domain import runs
from paybill_agent_gateway.domain.amounts import exceeded
from paybill_agent_gateway.domain.calls import CallCaller
from paybill_agent_gateway.domain.refusals import ApprovalEndedError
from paybill_agent_gateway.domain.runs import Run
from paybill_agent_gateway.tables import RUNS
from paybill_contracts.agent_runs import ActionIntended, CallApprovalGranted, RunStarted
from paybill_contracts.event import Event, decode
from paybill_runtime.http.listing import load_page
from paybill_runtime.testing import until
from sqlalchemy import text

pytestmark = pytest.mark.e2e

CALLS = int(os.environ.get("PAYBILL_TEST_AGENT_CALLS", "2000"))
SEED = int(os.environ.get("PAYBILL_TEST_AGENT_SEED", "0")) or int.from_bytes(os.urandom(4))
TENANTS, AGENTS_OF_EACH, TICKETS = 4, 8, 60
FACTS = text("SELECT subject, payload FROM chassis.outbox WHERE aggregate LIKE 'run/%' ORDER BY aggregate, revision")


@pytest.fixture
async def gateway(start: Any, postgres: Any) -> AsyncIterator[World]:
    async with world(start, postgres) as found:
        yield found


class Caller:
    """One caller, who makes calls that are right, repeated, changed, stale or about runs of others."""

    def __init__(self, agent: CallCaller, seed: int, processes: list[GatewayProcess], known: list[str]) -> None:
        self.agent, self.random, self.processes, self.known = agent, Random(seed), processes, known
        self.run: dict[str, Any] | None = None
        self.last: dict[str, Any] | None = None
        self.codes: Counter[str] = Counter()

    async def call(self) -> None:
        """Makes one call, and checks that its answer has no row of another tenant."""
        request = self.request()
        found = await self.random.choice(self.processes).call(asdict(self.agent), request)
        self.last = request
        answer = found.get("answer")
        self.codes[found["refused"]["code"] if "refused" in found else "answered" if answer else str(found)] += 1
        text_of = json.dumps(found)
        assert _tenants_in(text_of) <= {self.agent.tenant_id}, text_of
        if answer is not None:
            self.run = answer if answer["ended"] is None else None
            self.known.append(answer["run"])
        elif found.get("refused", {}).get("seq") and self.run is not None:
            self.run = self.run | {"seq": found["refused"]["seq"]}

    def request(self) -> dict[str, Any]:
        """Returns the next request."""
        dice = self.random.random()
        if dice < 0.15 and self.last is not None:
            return self.last
        if self.run is None or dice < 0.25:
            ticket = f"t-{self.random.randrange(TICKETS + 2)}"
            return {"workflow": "refund", "inputs": {"ticket": ticket}, "request_id": "r"}
        amount = self.random.choice([1, 500, 2000, 2001, 4000, 4501, 0, -1])
        take = {"run": self.run["run"], "seq": self.run["seq"], "step": "propose"}
        if dice < 0.30:
            take["seq"] = self.random.randrange(9)
        if dice < 0.33 and self.known:
            take["run"] = self.random.choice(self.known)
        if dice < 0.35:
            take["step"] = "order"
        return take | {"values": {"amount": amount, "reason": self.random.choice(["broken", "late", "x" * 300])}}


def _tenants_in(answer: str) -> set[str]:
    return {f"ten_{part[:32]}" for part in answer.split("ten_")[1:]}


async def test_random_calls_over_two_processes_break_no_rule(gateway: World, tmp_path: Path) -> None:
    print(f"PAYBILL_TEST_AGENT_SEED={SEED}")  # noqa: T201  # repeats this run
    random, known = Random(SEED), list[str]()  # a plan, and no secret
    agents: list[CallCaller] = []
    for number in range(TENANTS):
        first = await gateway.tenant(f"acme-{number}")
        agents += [first, *[await gateway.agent(first.tenant_id) for _ in range(AGENTS_OF_EACH - 1)]]
        rows = ", ".join(
            f"('{first.tenant_id}', 't-{each}', 'o-1', 'c-1', '{first.tenant_id}', 'x', 'open')"
            for each in range(TICKETS)
            if each not in {17, 18}
        )
        await gateway.pool.execute(f"INSERT INTO product.tickets VALUES {rows}")  # our own values
    settings = gateway.served.running.settings
    processes = [await GatewayProcess.start(settings, tmp_path) for _ in range(2)]
    callers = [Caller(agent, random.getrandbits(32), processes, known) for agent in agents]

    async def calls(caller: Caller) -> None:
        for _ in range(CALLS // len(callers)):
            await caller.call()

    async def decisions() -> None:
        while True:
            waiting, _ = await load_page(gateway.gate.context, RUNS, None, 50, approval_status="requested")
            for run in waiting:
                assert run.approval is not None
                verb = gateway.approve if random.random() < 0.7 else gateway.deny
                with contextlib.suppress(ApprovalEndedError):  # it has expired, or its run has ended
                    await verb(run.approval.id, run.id)
            await asyncio.sleep(0.05)

    deciding = asyncio.create_task(decisions())
    try:
        await asyncio.gather(*(calls(caller) for caller in callers))
    finally:
        deciding.cancel()
        for process in processes:
            await process.end()

    codes = sum((caller.codes for caller in callers), Counter[str]())
    assert {code for code in codes if "failed" in code or "lost" in code} == set(), codes
    states = await _folded(gateway)
    await _check(gateway, states)
    assert {"answered", "approval_required", "approval_denied", "run_not_found", "seq_reused"} <= set(codes), codes
    assert await gateway.refunds()
    await until(lambda: _no_intent(gateway))


async def _folded(gateway: World) -> dict[str, tuple[Run, list[Event]]]:
    """Folds the facts of all runs again; an illegal transition raises."""
    found: dict[str, tuple[Run, list[Event]]] = {}
    for row in await gateway.gate.context.rows(FACTS):
        type_ = row.subject.split(".", 3)[3].rsplit(".v", 1)[0]
        event: Any = decode(type_, 1, bytes(row.payload))
        run, events = found.get(event.run_id, (None, []))
        assert run is None or run.ended is None or isinstance(event, RunStarted), event
        found[event.run_id] = (runs.evolve(run, event), [*events, event])
    return found


async def _check(gateway: World, states: dict[str, tuple[Run, list[Event]]]) -> None:
    refunds = await gateway.pool.fetch("SELECT tenant_id, id, order_id, amount FROM product.refunds")
    assert len({run for _, run, _, _ in refunds}) == len(refunds)
    for tenant, run_id, order, amount in refunds:
        run, events = states[run_id]
        intents = [each for each in events if isinstance(each, ActionIntended)]
        granted = {each.approval_id for each in events if isinstance(each, CallApprovalGranted)}
        assert run.tenant_id == tenant
        assert 0 < amount <= {"o-1": 4500, "o-2": 9000}[order]
        assert intents[-1].arguments["amount"] == amount
        assert amount <= 2000 or intents[-1].approval_id in granted
    for run, _ in states.values():
        assert exceeded(run.used, run.limit) is None
        assert len(run.done) <= 3


async def _no_intent(gateway: World) -> bool:
    pending, _ = await load_page(gateway.gate.context, RUNS, None, 1, status="pending")
    return not pending
