"""Effects and timers: done at least once under one key, in a tenant's order, and every outcome recorded."""

import asyncio
from dataclasses import replace

import pytest
from paybill_contracts.tenant import HoldOrigin, TenantCancelled, TenantRequested
from paybill_runtime import parking, worker
from paybill_runtime.testing import until
from paybill_runtime.work import Outcome, Refused, RetryAfter, Work
from paybill_tenant.app import service
from paybill_tenant.tables import TENANTS


class _World:
    """The outside: it notes every call, and fails as told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self.failures: list[Exception] = []
        self.gate: asyncio.Event | None = None

    async def call(self, key: str, what: str, attempt: int) -> None:
        self.calls.append((key, what, attempt))
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)


def _cancelled(event: TenantRequested, why: str) -> Outcome:
    fact = TenantCancelled(tenant_id=event.tenant_id, origin=HoldOrigin.OPERATOR, reason=why)
    return Outcome(
        lambda unit, _: unit.record(TENANTS, event.tenant_id, [fact]), writes=[TENANTS.key(event.tenant_id)], last=True
    )


def _work() -> Work:
    made = Work()

    @made.effect(TenantRequested, attempts=3, failed=lambda job, why: _cancelled(job.event, f"failed: {why}"))
    async def greet(job, world):
        email = await job.open(job.event.contact_email)
        state = await job.state(TENANTS, job.event.tenant_id)
        await world.call(job.id, f"{state.slug} {email}", job.attempt)
        yield _cancelled(job.event, "greeted")

    return made


@pytest.fixture
def world() -> _World:
    return _World()


@pytest.fixture
async def specimen(start, say, log, offerings, world, monkeypatch):
    monkeypatch.setattr(parking, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(worker, "POLL_S", 0.05)
    running = await start(replace(service(), work=_work(), effects=lambda _settings, _secrets: world))
    await say(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    return running


async def _reasons(log, count=1):
    return [fact.event.reason for fact in await log.facts("tenant.tenant_cancelled", at_least=count)]


async def test_an_effect_is_done_after_its_fact_under_the_facts_id(specimen, sign_up, log, world) -> None:
    await sign_up(specimen)

    assert await _reasons(log) == ["greeted"]
    fact = (await log.facts("tenant.tenant_requested"))[0]
    assert world.calls == [(fact.id, "acme un.likely@acme.example", 1)]
    outcome = (await log.facts("tenant.tenant_cancelled"))[0]
    assert outcome.origin.cause == fact.id
    assert outcome.origin.traceparent[3:35] == fact.origin.traceparent[3:35]


async def test_a_failure_is_tried_again_under_the_same_key(specimen, sign_up, log, world) -> None:
    world.failures = [ConnectionResetError("cut off"), ValueError("odd")]

    await sign_up(specimen)

    assert await _reasons(log) == ["greeted"]
    assert [attempt for _, _, attempt in world.calls] == [1, 2, 3]
    assert len({key for key, _, _ in world.calls}) == 1


async def test_after_the_last_attempt_the_failure_is_a_fact(specimen, sign_up, log, world) -> None:
    world.failures = [RuntimeError("down")] * 9

    await sign_up(specimen)

    assert await _reasons(log) == ["failed: RuntimeError: down"]
    assert len(world.calls) == 3
    failed = (await specimen.client.get("/v1/operations/effects")).json()
    assert [(effect["state"], effect["work"]) for effect in failed] == [("failed", "greet")]


async def test_a_refusal_is_not_tried_again(specimen, sign_up, log, world) -> None:
    world.failures = [Refused("card stolen")]

    await sign_up(specimen)

    assert await _reasons(log) == ["failed: card stolen"]
    assert len(world.calls) == 1


async def test_being_told_to_come_back_later_costs_no_attempt(specimen, sign_up, log, world) -> None:
    world.failures = [RetryAfter(0.01, "rate limited")] * 5

    await sign_up(specimen)

    assert await _reasons(log) == ["greeted"]
    assert [attempt for _, _, attempt in world.calls] == [1] * 6


async def test_a_killed_executor_runs_the_effect_again_under_the_same_key(start, specimen, sign_up, log, world) -> None:
    world.gate = asyncio.Event()
    await sign_up(specimen)
    await until(lambda: _called(world))
    for task in specimen.running._tasks.values():
        task.cancel()
    await specimen.running.database.close()
    world.gate.set()

    await start(
        replace(service(), work=_work(), effects=lambda _settings, _secrets: world),
        url=specimen.running.settings.database_url,
    )

    assert await _reasons(log) == ["greeted"]
    assert len({key for key, _, _ in world.calls}) == 1


async def _called(world) -> bool:
    return bool(world.calls)


async def test_many_tenants_are_served_at_once(specimen, sign_up, log, world) -> None:
    world.gate = asyncio.Event()
    await asyncio.gather(*(sign_up(specimen, f"tenant-{n}") for n in range(8)))

    async def all_called() -> bool:
        return len(world.calls) == 8

    await until(all_called)
    world.gate.set()

    assert await _reasons(log, 8) == ["greeted"] * 8
