"""Effects run at least once under one key, in order for each tenant, and every outcome is recorded."""

import asyncio
from dataclasses import replace

import pytest
from paybill_contracts.envelope import Origin
from paybill_contracts.tenant import HoldOrigin, OfferingNoted, TenantCancelled, TenantRequested
from paybill_runtime import clock
from paybill_runtime.jobs import worker
from paybill_runtime.jobs.effects import JobRegistry, Outcome, Refused
from paybill_runtime.jobs.kinds import Limit, RetryAfter
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.testing import until
from paybill_tenant.app import service
from paybill_tenant.tables import SIGNUP_OPTIONS, TENANTS
from sqlalchemy import text


class _ExternalSystem:
    """External system that records every call and fails on demand."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self.failures: list[Exception] = []
        self.gate: asyncio.Event | None = None

    async def call(self, key: str, what: str, attempt: int) -> None:
        self.calls.append((key, what, attempt))
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0.5)  # a cancelled call may still have to clean up
                raise
        if self.failures:
            raise self.failures.pop(0)


def _cancelled(event: TenantRequested, why: str, *, last: bool = True) -> Outcome:
    fact = TenantCancelled(tenant_id=event.tenant_id, origin=HoldOrigin.OPERATOR, reason=why)
    return Outcome(
        lambda unit, _: unit.record(TENANTS, event.tenant_id, [fact]), writes=[TENANTS.key(event.tenant_id)], last=last
    )


def _failed(job, why: str) -> Outcome:
    """A refusal that names an answer is the end of the job."""
    return _cancelled(job.event, f"failed: {why}", last="answer" in why)


def _work() -> JobRegistry:
    made = JobRegistry()

    @made.effect(TenantRequested, attempts=3, failed=_failed)
    async def greet(job, external_system):
        email = await job.open(job.event.contact_email)
        state = await job.state(TENANTS, job.event.tenant_id)
        await external_system.call(job.id, f"{state.slug} {email}", job.attempt)
        yield _cancelled(job.event, "greeted")

    return made


@pytest.fixture
def external_system() -> _ExternalSystem:
    return _ExternalSystem()


@pytest.fixture
async def service_with_effects(start, publish, log, offerings, external_system, monkeypatch):
    monkeypatch.setattr(clock, "FIRST_BACKOFF_S", 0.01)
    running = await start(replace(service(), jobs=_work(), effects=lambda _settings, _secrets: external_system))
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    return running


async def _reasons(log, count=1):
    return [fact.event.reason for fact in await log.facts("tenant.tenant_cancelled", at_least=count)]


async def test_an_effect_runs_after_its_fact_with_the_fact_s_id_as_key(
    service_with_effects, sign_up, log, external_system
) -> None:
    await sign_up(service_with_effects)

    assert await _reasons(log) == ["greeted"]
    fact = (await log.facts("tenant.tenant_requested"))[0]
    assert external_system.calls == [(fact.id, "acme un.likely@acme.example", 1)]
    outcome = (await log.facts("tenant.tenant_cancelled"))[0]
    assert outcome.origin.cause == fact.id
    assert outcome.origin.traceparent[3:35] == fact.origin.traceparent[3:35]


async def test_extra_statements_commit_together_with_the_outcome(start, publish, log, offerings, sign_up, databases):
    made = JobRegistry()

    @made.effect(TenantRequested)
    async def greet(job, _world):
        add = "INSERT INTO offerings (id, revision, state) VALUES ('beside', 1, '{}')"
        yield replace(_cancelled(job.event, "greeted"), extra_statements=lambda statement: statement.add(add))

    running = await start(replace(service(), jobs=made))
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)

    await sign_up(running)

    assert await _reasons(log) == ["greeted"]
    url = running.running.settings.database_url
    assert await databases.execute(url, "tenant", "SELECT revision FROM offerings WHERE id = 'beside'")


async def test_a_failed_effect_is_retried_under_the_same_key(
    service_with_effects, sign_up, log, external_system
) -> None:
    external_system.failures = [ConnectionResetError("cut off"), ValueError("odd")]

    await sign_up(service_with_effects)

    assert await _reasons(log) == ["greeted"]
    assert [attempt for _, _, attempt in external_system.calls] == [1, 2, 3]
    assert len({key for key, _, _ in external_system.calls}) == 1


async def test_the_last_failed_attempt_is_recorded_as_a_fact(
    service_with_effects, sign_up, log, external_system
) -> None:
    external_system.failures = [RuntimeError("down")] * 9

    await sign_up(service_with_effects)

    assert await _reasons(log) == ["failed: RuntimeError: down"]
    assert len(external_system.calls) == 3
    failed = (await service_with_effects.client.get("/v1/operations/effects")).json()
    assert [(effect["state"], effect["work"]) for effect in failed] == [("failed", "greet")]


async def test_a_failure_that_is_an_answer_leaves_no_failed_job(
    service_with_effects, sign_up, log, external_system
) -> None:
    external_system.failures = [Refused("the answer is no")]

    await sign_up(service_with_effects)

    assert await _reasons(log) == ["failed: the answer is no"]
    assert (await service_with_effects.client.get("/v1/operations/effects")).json() == []


async def test_a_failure_and_its_fact_are_recorded_in_one_transaction(
    service_with_effects, sign_up, log, external_system, databases
) -> None:
    """Otherwise a worker killed in between would call again after the failure was known."""
    external_system.failures = [Refused("card stolen")] * 99
    url = str(service_with_effects.running.settings.database_url)
    await databases.execute(
        url,
        "tenant",
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE deadlock_detected; END $$",
    )
    await databases.execute(
        url,
        "tenant",
        "CREATE TRIGGER late BEFORE UPDATE ON chassis.job FOR EACH ROW WHEN (NEW.state = 'failed') "
        "EXECUTE FUNCTION late()",
    )
    await sign_up(service_with_effects)
    await until(lambda: _called(external_system, 2))

    states = await databases.execute(url, "tenant", "SELECT state->>'status' AS status FROM tenants")
    assert [row["status"] for row in states] == ["requested"]
    await databases.execute(url, "tenant", "DROP TRIGGER late ON chassis.job")

    assert await _reasons(log) == ["failed: card stolen"]


async def test_an_effect_of_an_unknown_kind_stays_queued_and_is_shown(
    start, service_with_effects, sign_up, databases, caplog
) -> None:
    url = service_with_effects.running.settings.database_url
    external_system = service_with_effects.running.effects
    external_system.gate = asyncio.Event()
    await sign_up(service_with_effects)
    await until(lambda: _called(external_system))
    await service_with_effects.running.__aexit__(None, None, None)

    other = JobRegistry()
    other.effects["tenant.tenant_cancelled"] = service_with_effects.running.service.jobs.effects[
        "tenant.tenant_requested"
    ]
    older = await start(replace(service(), jobs=other, effects=lambda _settings, _secrets: external_system), url=url)

    async def shown():
        return [row for row in (await older.client.get("/v1/operations/effects")).json() if row["reason"]]

    rows = await until(shown)
    await asyncio.sleep(0.3)
    assert [(row["state"], row["attempts"]) for row in rows] == [("pending", 0)]
    assert "has no effect greet" in rows[0]["reason"]
    assert sum("no effect greet here" in record.message for record in caplog.records) == 1


async def test_a_worker_that_lost_its_lease_records_no_outcome(
    service_with_effects, sign_up, external_system, databases
) -> None:
    external_system.gate = asyncio.Event()
    await sign_up(service_with_effects)
    await until(lambda: _called(external_system))
    url = str(service_with_effects.running.settings.database_url)
    service_with_effects.running.loops.tasks["leases"].cancel()
    await databases.execute(url, "tenant", "UPDATE chassis.lease SET owner = 'another', epoch = epoch + 1")

    external_system.gate.set()
    await asyncio.sleep(0.5)

    rows = await databases.execute(url, "tenant", "SELECT state, attempts FROM chassis.job WHERE kind = 'greet'")
    assert [tuple(row) for row in rows] == [("pending", 0)]
    assert len(external_system.calls) == 1


async def test_a_tenant_with_many_effects_does_not_delay_others(start, publish, log, monkeypatch) -> None:
    monkeypatch.setattr(worker, "SLOTS", 1)
    order: list[str] = []
    gate = asyncio.Event()
    work = JobRegistry()

    @work.effect(OfferingNoted)
    async def note(job, _effects):
        order.append(job.event.offering)
        await gate.wait()
        for _ in ():
            yield _

    served = await start(replace(service(), jobs=work, subscriptions=Subscriptions()))
    for name in ("many-1", "many-2", "other"):
        await _note(served, name)
    async with served.running.database.transaction() as connection:
        await connection.execute(
            text("UPDATE chassis.job SET queue = 'other' WHERE position = (SELECT max(position) FROM chassis.job)")
        )
    gate.set()

    await until(lambda: _all(order, 3))

    assert order == ["many-1", "other", "many-2"]


async def _note(served, name: str) -> None:
    fact = OfferingNoted(offering=name, keys=(), source_hash="a" * 64)
    await served.running.context.decide(
        Origin(name, name, "service:tenant", ""),
        lambda unit, _: unit.record(SIGNUP_OPTIONS, name, [fact]),
        writes=[SIGNUP_OPTIONS.key(name)],
    )


async def _all(order: list[str], count: int) -> bool:
    return len(order) == count


async def test_shutdown_leaves_no_task_and_no_lease(
    start, service_with_effects, sign_up, external_system, databases
) -> None:
    external_system.gate = asyncio.Event()
    await sign_up(service_with_effects)
    await until(lambda: _called(external_system))
    url = str(service_with_effects.running.settings.database_url)

    await service_with_effects.running.__aexit__(None, None, None)

    ours = [task for task in asyncio.all_tasks() if "paybill_runtime" in task.get_coro().cr_code.co_filename]
    assert ours == []
    held = await databases.execute(url, "tenant", "SELECT count(*) AS held FROM chassis.lease WHERE owner <> ''")
    assert held[0]["held"] == 0
    assert await databases.execute(url, "tenant", "SELECT * FROM chassis.member") == []
    assert len(external_system.calls) == 1


async def test_a_refused_effect_is_not_retried(service_with_effects, sign_up, log, external_system) -> None:
    external_system.failures = [Refused("card stolen")]

    await sign_up(service_with_effects)

    assert await _reasons(log) == ["failed: card stolen"]
    assert len(external_system.calls) == 1


async def test_effects_keep_the_limit_of_their_provider(
    start, publish, log, offerings, sign_up, external_system
) -> None:
    jobs = JobRegistry()

    @jobs.effect(TenantRequested, limit=Limit("calls", 2, per="region"))
    async def greet(job, external_system):
        await external_system.call(job.id, "", job.attempt)
        yield _cancelled(job.event, "greeted")

    external_system.gate = asyncio.Event()
    served = await start(replace(service(), jobs=jobs, effects=lambda _settings, _secrets: external_system))
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    for number in range(5):
        await sign_up(served, f"tenant-{number}")
    await until(lambda: _called(external_system, 2))
    before = len(external_system.calls)
    kinds = {job["kind"] for job in (await served.client.get("/v1/operations/jobs")).json()}
    external_system.gate.set()

    assert await _reasons(log, 5) == ["greeted"] * 5
    assert before == 2
    assert "greet/eu-1" in kinds


async def test_a_retry_after_response_costs_no_attempt(service_with_effects, sign_up, log, external_system) -> None:
    external_system.failures = [RetryAfter(0.01, "rate limited")] * 5

    await sign_up(service_with_effects)

    assert await _reasons(log) == ["greeted"]
    assert [attempt for _, _, attempt in external_system.calls] == [1] * 6


async def test_a_killed_executor_runs_the_effect_again_under_the_same_key(
    start, service_with_effects, sign_up, log, external_system
) -> None:
    external_system.gate = asyncio.Event()
    await sign_up(service_with_effects)
    await until(lambda: _called(external_system))
    for task in service_with_effects.running.loops.tasks.values():
        task.cancel()
    await service_with_effects.running.database.close()
    external_system.gate.set()

    await start(
        replace(service(), jobs=_work(), effects=lambda _settings, _secrets: external_system),
        url=service_with_effects.running.settings.database_url,
    )

    assert await _reasons(log) == ["greeted"]
    assert len({key for key, _, _ in external_system.calls}) == 1


async def _called(external_system, times: int = 1) -> bool:
    return len(external_system.calls) >= times


async def test_effects_of_many_tenants_run_concurrently(service_with_effects, sign_up, log, external_system) -> None:
    external_system.gate = asyncio.Event()
    await asyncio.gather(*(sign_up(service_with_effects, f"tenant-{n}") for n in range(8)))

    async def all_called() -> bool:
        return len(external_system.calls) == 8

    await until(all_called)
    external_system.gate.set()

    assert await _reasons(log, 8) == ["greeted"] * 8
