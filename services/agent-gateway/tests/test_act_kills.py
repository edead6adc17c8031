"""A gateway is killed at each stage of a write; its client repeats the call until it is answered."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from gateway_process import STAGES, GatewayProcess
from gateway_world import World, world
from paybill_agent_gateway.domain.runs import CLAIM_AFTER
from paybill_contracts.agent_runs import RunEnd
from paybill_runtime.testing import until

pytestmark = pytest.mark.e2e


@pytest.fixture
async def gateway(start: Any, postgres: Any) -> AsyncIterator[World]:
    async with world(start, postgres) as found:
        yield found


@pytest.mark.parametrize("stage", STAGES)
async def test_a_killed_gateway_causes_one_refund_and_a_settled_run(gateway: World, tmp_path: Path, stage: str) -> None:
    agent = await gateway.tenant()
    caller, settings = asdict(agent), gateway.served.running.settings
    dying = await GatewayProcess.start(settings, tmp_path, stage)
    begun = (await dying.call(caller, {"workflow": "refund", "inputs": {"ticket": "t-17"}, "request_id": "r"}))[
        "answer"
    ]
    run, number = begun["run"], begun["seq"]

    lost = await dying.call(caller, take(run, number))
    assert "lost" in lost
    await dying.end()

    async def answered() -> Any:
        nonlocal number
        found = await process.call(caller, take(run, number))
        if "refused" in found and found["refused"]["code"] == "action_voided":
            number = found["refused"]["seq"]  # nothing changed: the client calls again under the next number
        return found.get("answer")

    process = await GatewayProcess.start(settings, tmp_path)
    answer = await until(answered, timeout_s=CLAIM_AFTER.total_seconds() + 60)
    await process.end()

    state = await gateway.run(run)
    assert answer["ended"] == "finished"
    assert (state.ended, state.intent) == (RunEnd.FINISHED, None)
    assert await gateway.refunds() == [("o-1", 1200, "broken")]
    await until(lambda: gateway.settled(agent.tenant_id))


def take(run: str, number: int) -> dict[str, Any]:
    return {"run": run, "seq": number, "step": "propose", "values": {"amount": 1200, "reason": "broken"}}
