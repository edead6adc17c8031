"""Generated requests to the REST API of a real gateway: none leads to an internal error, and the next one is served.

`PAYBILL_TEST_REST_REQUESTS` sets the number of requests for each route, and `PAYBILL_TEST_REST_SEED` repeats a run.
"""

import asyncio
import os
import random
from typing import Any

import schemathesis
from endpoint_world import endpoints
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

REQUESTS = int(os.environ.get("PAYBILL_TEST_REST_REQUESTS", "25"))
SEED = int(os.environ.get("PAYBILL_TEST_REST_SEED", random.SystemRandom().randrange(2**32)))
OWN = (
    "/v1/workflows",
    "/v1/runs",
    "/v1/approvals",
    "/v1/agents",
    "/v1/freezes",
    "/v1/explanations",
    "/v1/bundles",
    "/mcp",
)
DRAWN = settings(
    max_examples=REQUESTS,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


async def test_no_request_leads_to_an_internal_error(start, postgres) -> None:
    async with endpoints(start, postgres) as gateway:
        tenant = await gateway.world.tenant()
        agent = await gateway.agent(tenant.tenant_id)
        body = {"tenant": tenant.tenant_id, "inputs": {"ticket": "t-17"}}
        run = (await gateway.operator.post("/v1/workflows/refund/runs", json=body)).json()
        call = {"seq": run["seq"], "values": {"amount": 3000, "reason": "broken"}}
        waiting = (await gateway.operator.post(f"/v1/runs/{run['run']}/steps/propose", json=call)).json()
        known = {
            "run": run["run"], "step": "propose", "name": "refund", "workflow": "refund", "tenant": tenant.tenant_id,
            "agent": agent["id"], "approval": waiting["approval"]["id"], "seq": run["seq"], "role": "support",
            "values": call["values"], "inputs": {"ticket": "t-18"},
        }  # fmt: skip
        document = (await gateway.operator.get("/openapi.json")).json()
        document["paths"] = {path: item for path, item in document["paths"].items() if path.startswith(OWN)}

        statuses = await asyncio.to_thread(
            _send, document, gateway.url, gateway.operator.headers["Authorization"], known
        )
        after = await gateway.operator.get(f"/v1/runs/{run['run']}")

    assert len(statuses) >= REQUESTS
    assert {status for status in statuses if status >= 500} == set()
    assert {200, 404, 422} <= set(statuses)
    assert after.status_code == 200


def _send(document: dict[str, Any], url: str, authorization: str, known: dict[str, Any]) -> list[int]:
    """Sends generated requests to all routes; returns the statuses. known: values that exist, by name."""
    statuses: list[int] = []
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = found.ok()

        @seed(SEED)
        @DRAWN
        @given(case=operation.as_strategy(), uses_known=st.booleans())
        def send(case: Any, uses_known: bool) -> None:  # noqa: FBT001
            if uses_known:
                for part in (case.path_parameters, case.query, case.body):
                    if isinstance(part, dict):
                        part.update({name: value for name, value in known.items() if name in part})
            response = case.call(base_url=url, headers={"Authorization": authorization}, timeout=30)
            statuses.append(response.status_code)
            sent = (f"PAYBILL_TEST_REST_SEED={SEED}", case.method, case.formatted_path, case.query, case.body)
            assert response.status_code < 500, (*sent, response.text)

        send()
    return statuses
