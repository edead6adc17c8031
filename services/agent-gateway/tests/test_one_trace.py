"""One trace from the caller's span through the endpoint and the statement in the tenant's database to the facts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from endpoint_world import Endpoints, endpoints
from otlp_receiver import Span, receiving
from paybill_agent_gateway.mcp.messages import MODERN
from traced_gateway import traced_gateway

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
REASON = "a broken lamp"
FACTS = ("run_started", "action_intended", "action_done")


async def refund_over_mcp(gateway: Endpoints, key: str) -> None:
    """Refunds an order; the trace is in the parameters, as the protocol has it."""
    meta = {"traceparent": TRACEPARENT}
    async with gateway.client(key, MODERN) as agent:
        started = await agent.session.call_tool("refund", {"ticket": "t-17"}, meta=meta)
        run = started.structured_content
        arguments = {"run": run["run"], "seq": run["seq"], "amount": 1200, "reason": REASON}
        done = await agent.session.call_tool("refund__propose", arguments, meta=meta)
    assert done.structured_content["ended"] == "finished"


async def refund_over_rest(gateway: Endpoints, key: str) -> None:
    """Refunds an order; the trace is in the header."""
    async with gateway.rest(key) as client:
        client.headers["traceparent"] = TRACEPARENT
        started = await client.post(
            "/v1/workflows/refund/runs", json={"inputs": {"ticket": "t-17"}}, headers={"Idempotency-Key": "one"}
        )
        run = started.json()
        done = await client.post(
            f"/v1/runs/{run['run']}/steps/propose",
            json={"seq": run["seq"], "values": {"amount": 1200, "reason": REASON}},
            headers={"Idempotency-Key": "two"},
        )
    assert done.json()["ended"] == "finished", done.text


@pytest.mark.parametrize(
    ("refund", "names"),
    [
        (refund_over_mcp, {"mcp tools/call"}),
        (refund_over_rest, {"POST /v1/workflows/{name}/runs", "POST /v1/runs/{run}/steps/{step}"}),
    ],
)
async def test_a_call_is_one_trace_to_the_statement_and_the_facts(
    start: Any, postgres: Any, log: Any, tmp_path: Path, refund: Callable[..., Any], names: set[str]
) -> None:
    with receiving() as received:
        async with endpoints(start, postgres) as gateway:
            key = (await gateway.agent((await gateway.world.tenant()).tenant_id))["key"]
            settings, database = gateway.world.served.running.settings, gateway.world.pool.database
            async with traced_gateway(settings, tmp_path, received.url) as port:
                await refund(replace(gateway, port=port), key)
            facts = [each for name in FACTS for each in await log.facts(f"agent-gateway.{name}")]

    spans = {each.id: each for each in received.spans if each.trace == TRACE}
    statements = [each for each in spans.values() if each.attributes.get("db.namespace") == database]
    written = [each for each in statements if "INSERT INTO" in each.attributes["db.query.text"]]
    assert {root_of(each, spans).name for each in statements} == names
    assert {root_of(each, spans).parent for each in statements} == {PARENT}
    assert len(written) == 1
    assert written[0].attributes["db.system.name"] == "postgresql"
    assert {each.origin.traceparent[3:35] for each in facts} == {TRACE}
    assert {root_of(spans[each.origin.traceparent[36:52]], spans).name for each in facts} == names
    assert not any(secret in body for body in received.bodies for secret in (REASON, "It is broken", key, "o-1"))


def root_of(span: Span, spans: dict[str, Span]) -> Span:
    """Returns the span of the endpoint above a span."""
    while span.parent in spans:
        span = spans[span.parent]
    return span
