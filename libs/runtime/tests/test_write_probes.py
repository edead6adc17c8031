"""Tests of writes: a part that answers and takes no write is found, also by another replica, and is ready again."""

import asyncio

import pytest
from paybill_runtime.testing import until
from paybill_tenant.app import service

ROWS = "SELECT service, written_at FROM chassis.write_probe"


async def _writes(served) -> dict[str, str]:
    return (await served.client.get("/v1/operations", params={"deep": True})).json()["writes"]


async def _ready(served) -> tuple[int, str]:
    response = await served.client.get("/readyz")
    return response.status_code, response.json()["checks"]["database"]


async def test_replicas_find_a_database_that_takes_no_write_and_are_ready_after_the_repair(start, databases) -> None:
    first = await start(service())
    url = str(first.running.settings.database_url)
    second = await start(service(), url)
    fine = [await _writes(first), await _writes(second)]
    assert fine == [{"database": "ok", "events": "ok"}] * 2
    [row] = await databases.execute(url, "tenant", ROWS)
    assert row["service"] == "tenant"

    await databases.execute(url, "tenant", "ALTER TABLE chassis.write_probe RENAME TO hidden")
    try:

        async def found() -> bool:
            return all(["PostgreSQL takes no write" in (await _writes(each))["database"] for each in (first, second)])

        await until(found)
        unready = [await _ready(first), await _ready(second)]
    finally:
        await databases.execute(url, "tenant", "ALTER TABLE chassis.hidden RENAME TO write_probe")

    assert [status for status, _ in unready] == [503, 503]
    assert all("PostgreSQL takes no write" in problem for _, problem in unready)

    async def repaired() -> bool:
        return [await _ready(first), await _ready(second)] == [(200, "ok")] * 2

    await until(repaired)


async def test_readiness_writes_nothing_and_many_callers_cause_one_write(start, databases) -> None:
    served = await start(service())
    url = str(served.running.settings.database_url)
    await _writes(served)
    before = await databases.execute(url, "tenant", ROWS)

    for _ in range(5):
        assert (await _ready(served)) == (200, "ok")
    found = await asyncio.gather(*(_writes(served) for _ in range(20)))

    assert found == [{"database": "ok", "events": "ok"}] * 20
    assert await databases.execute(url, "tenant", ROWS) == before


@pytest.mark.own_nats
async def test_the_last_publication_decides_whether_the_log_takes_writes(start, nats, publish, log, offerings) -> None:
    served = await start(service())
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    nats.kill()
    body = {"slug": "acme", "name": "Acme", "plan": "pro", "region": "eu-1", "contact_email": "a@x.example"}
    assert (await served.client.post("/v1/tenants", json=body, headers={"Idempotency-Key": "k"})).status_code == 202

    async def waits() -> bool:
        return (await _writes(served))["events"] == "NATS is unreachable"

    try:
        await until(waits)
    finally:
        nats.start()

    async def published() -> bool:
        return (await _writes(served))["events"] == "ok"

    await until(published)
