"""A fact's way: decided over HTTP, kept in the outbox, stored in the stream, heard by another service."""

from paybill_runtime.testing import Log, Start
from paybill_tenant.app import service as tenant_service


async def test_a_refusal_over_http_becomes_a_fact_in_the_stream(start: Start, log: Log) -> None:
    tenant = await start(tenant_service())

    answer = await tenant.client.post("/v1/tenants/nobody/suspend", json={"mode": "blocked", "reason": "unpaid"})

    assert answer.status_code == 404
    assert answer.json()["code"] == "tenant_not_found"
    facts = await log.facts("tenant.request_refused")
    assert facts[0].event.code == "tenant_not_found"
    assert facts[0].origin.traceparent[3:35] == answer.json()["trace_id"]
