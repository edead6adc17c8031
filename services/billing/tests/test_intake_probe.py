"""Probe messages of INTAKE: they test the stream, and billing drops them."""

import asyncio

import pytest
from nats.js.api import StreamConfig
from paybill_billing.app import service
from paybill_embedded.users import permissions
from paybill_runtime.messaging.streams import INTAKE, configurations, connect
from paybill_runtime.messaging.write_probes import intake_probe
from paybill_runtime.testing import until


async def _writes(served):
    return (await served.client.get("/v1/operations", params={"deep": True})).json()["writes"]


async def _readiness(served):
    response = await served.client.get("/readyz")
    return response.status_code, response.json()["checks"]["intake_stream"]


def test_only_the_owner_of_the_intake_may_publish_a_probe_message():
    assert intake_probe("billing") in permissions("billing").publish
    for user in ("tenant", "provisioner", "agent-gateway", "operator", "steward", "metering"):
        assert intake_probe("billing") not in permissions(user).publish


@pytest.mark.own_nats
async def test_an_intake_that_takes_no_write_is_found_by_both_replicas_and_degrades_them(start, nats, databases):
    first = await start(service(), default_provider="manual")
    url = str(first.running.settings.database_url)
    second = await start(service(), url, default_provider="manual")
    for each in (first, second):
        await until(lambda served=each: asyncio.sleep(0, "intake_stream" in served.running.write_probes.results))
        assert (await _writes(each))["intake_stream"] == "ok"

    steward = await connect(nats.url, "steward", nats.password("steward"))
    [intake] = [vars(each) for each in configurations(1) if each.name == INTAKE]
    # A full stream answers with an error, as one whose disk has failed answers nothing.
    await steward.jetstream().update_stream(StreamConfig(**intake | {"max_bytes": 100}))

    async def found():
        return all(["INTAKE takes no write" in (await _writes(each))["intake_stream"] for each in (first, second)])

    try:
        await until(found)
        degraded = [await _readiness(first), await _readiness(second)]
    finally:
        await steward.jetstream().update_stream(StreamConfig(**intake))

    assert all(status == 200 and "INTAKE takes no write" in problem for status, problem in degraded)

    async def repaired():
        return [await _readiness(first), await _readiness(second)] == [(200, "ok")] * 2

    await until(repaired)
    stored = (await steward.jetstream().stream_info(INTAKE)).state.messages
    assert stored > 0
    await steward.close()
    listed = [(await each.client.get("/v1/operations")).json() for each in (first, second)]
    assert [(each["parked"], each["quarantined"]) for each in listed] == [(0, 0)] * 2
    assert await databases.execute(url, "billing", "SELECT 1 FROM chassis.inbox") == []
