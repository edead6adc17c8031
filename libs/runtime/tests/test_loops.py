"""Background loops: a fault of one backs off, is visible, and disturbs no other."""

import asyncio

from paybill_runtime.errors import ConfigurationError
from paybill_runtime.loops import Loops
from paybill_runtime.testing import until
from paybill_tenant.app import service

HIDE_SEQUENCES = "ALTER TABLE chassis.publication RENAME COLUMN sequence TO hidden"
SHOW_SEQUENCES = "ALTER TABLE chassis.publication RENAME COLUMN hidden TO sequence"
HIDE_INBOX = "ALTER TABLE chassis.inbox RENAME TO hidden"
SHOW_INBOX = "ALTER TABLE chassis.hidden RENAME TO inbox"


async def test_a_loop_that_fails_backs_off_and_the_others_go_on(caplog) -> None:
    loops, recovered, rounds = Loops(), asyncio.Event(), []

    async def faulty() -> None:
        rounds.append("faulty")
        if len(rounds) == 1:
            raise KeyError("a bug")
        recovered.set()
        await asyncio.Event().wait()

    loops.start("faulty", faulty)
    task = loops.start("other", asyncio.Event().wait)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    during = loops.problem
    await recovered.wait()
    went_on = not task.done()
    await loops.end()

    assert during == "faulty failed (1 in a row) and starts again: KeyError: 'a bug'"
    assert "the loop faulty failed (1 in a row); it starts again in 1 s" in caplog.text
    assert went_on
    assert not loops.failed.is_set()


async def test_an_essential_loop_and_a_wrong_setting_end_the_process() -> None:
    async def faulty() -> None:
        raise KeyError("a bug")

    async def misconfigured() -> None:
        raise ConfigurationError("PAYBILL_DATABASE_URL is rejected")

    for run, essential in ((faulty, True), (misconfigured, False)):
        loops = Loops()
        loops.start("loop", run, essential=essential)

        async with asyncio.timeout(60):
            await loops.failed.wait()


async def _checks(served, status: str) -> dict[str, str] | None:
    readiness = (await served.client.get("/readyz")).json()
    return readiness["checks"] if readiness["status"] == status else None


async def test_a_fault_of_the_relay_keeps_facts_and_leaves_the_consumer_alone(
    start, publish, offerings, log, databases
) -> None:
    served = await start(service())
    url = str(served.running.settings.database_url)
    await databases.execute(url, "tenant", HIDE_SEQUENCES)
    await publish(*offerings)

    async def handled() -> bool:
        return len(await databases.execute(url, "tenant", "SELECT id FROM offerings")) == len(offerings)

    await until(handled)
    checks = await until(lambda: _checks(served, "degraded"))
    await databases.execute(url, "tenant", SHOW_SEQUENCES)

    assert "relay failed" in checks["loops"]
    assert 'column "sequence" does not exist' in checks["loops"]
    assert len(await log.facts("tenant.offering_noted", at_least=2)) == 2
    await until(lambda: _checks(served, "ok"))


async def test_a_fault_of_the_consumer_repeats_nothing_and_leaves_the_relay_alone(
    start, publish, offerings, log, databases
) -> None:
    served = await start(service())
    url = str(served.running.settings.database_url)
    await databases.execute(url, "tenant", HIDE_INBOX)
    await publish(*offerings)
    checks = await until(lambda: _checks(served, "degraded"))

    refused = await served.client.post("/v1/tenants/nobody/resume")
    published = await log.facts("tenant.request_refused", at_least=1)
    await databases.execute(url, "tenant", SHOW_INBOX)

    assert "reader failed" in checks["loops"]
    assert refused.status_code == 404
    assert len(published) == 1
    assert len(await log.facts("tenant.offering_noted", at_least=2)) == 2
    await until(lambda: _checks(served, "ok"))
