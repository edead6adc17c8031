"""Job queue: classes, locks, slots and fairness; jobs that wait or fail; and what operators see and do."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from fastapi import APIRouter
from paybill_contracts.envelope import Origin
from paybill_contracts.tenant import HoldOrigin, TenantCancelled, TenantRequested
from paybill_runtime import clock
from paybill_runtime.database.leases import RELAY
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.job_rows import RESOURCE, JobRequest, Priority, request_job
from paybill_runtime.jobs import worker
from paybill_runtime.jobs.effects import JobRegistry, Outcome
from paybill_runtime.jobs.kinds import AttemptFailedError, Kind, RetryAfter
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.testing import until
from paybill_tenant.app import service
from paybill_tenant.tables import TENANTS
from sqlalchemy import text


def _service(*kinds: Kind, **more):
    router = APIRouter(prefix="/v1/none")
    declared = replace(service(), states=(), subscriptions=Subscriptions(), router=lambda _: router)
    return replace(declared, job_kinds=lambda _: kinds, **more)


async def _request(served, kind: str, *keys: str, queue: str = "", priority=Priority.INTERACTIVE, lease=RELAY) -> None:
    """Requests jobs in one transaction."""
    statement = Statement()
    for key in keys:
        request_job(statement, JobRequest(kind, key, lease, clock.now(), queue=queue, priority=priority))
    async with served.running.database.direct(committing=True) as connection:
        await statement.execute(connection)
    served.running.worker.wake()


async def _jobs(served, **query):
    answer = await served.client.get("/v1/operations/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _eventually(check):
    async def checked():
        return check()

    return until(checked)


class _ForgetfulTurns(dict):
    """Planted starvation: the turns always begin at the first queue."""

    def __setitem__(self, _priority, _queue) -> None:
        return


async def _delay_of_another(start, turns: type[dict]) -> int:
    """Returns how many jobs of a tenant with 1,000 run before the only job of another tenant, at most 100."""
    done: list[str] = []

    async def work(job) -> None:
        await asyncio.sleep(0.002)
        done.append(job.queue)

    served = await start(_service(Kind("work", work, concurrency=1)))
    served.running.worker._after = turns(dict.fromkeys(Priority, ""))
    await _request(served, "work", *(f"many-{number}" for number in range(1000)), queue="a-tenant-with-many")
    await _eventually(lambda: len(done) > 20)
    before = len(done)
    await _request(served, "work", "single", queue="z-another")
    await _eventually(lambda: "z-another" in done or len(done) > before + 100)
    return [*done[before:], "z-another"].index("z-another")


async def test_a_tenant_with_a_thousand_jobs_delays_another_s_job_by_at_most_two_job_lengths(start) -> None:
    assert await _delay_of_another(start, dict) <= 2


async def test_a_planted_starvation_is_found(start) -> None:
    assert await _delay_of_another(start, _ForgetfulTurns) > 2


async def test_tenants_with_many_jobs_take_turns(start) -> None:
    done: list[str] = []

    async def work(job) -> None:
        done.append(job.queue)

    served = await start(_service(Kind("work", work, concurrency=0)))
    for tenant in ("a", "b", "c"):
        await _request(served, "work", *(f"{tenant}-{number}" for number in range(5)), queue=tenant)
    served.running.worker.kinds["work"] = Kind("work", work, concurrency=1)
    served.running.worker.wake()
    await _eventually(lambda: len(done) == 15)

    assert done == ["a", "b", "c"] * 5


async def test_jobs_that_wait_for_the_outside_leave_their_slots_to_others(start) -> None:
    waiting, done = [], []

    async def wait(job) -> None:
        waiting.append(job.attempts)
        raise RetryAfter(600, "the database is created")

    async def work(job) -> None:
        done.append(job.key)

    served = await start(_service(Kind("wait", wait), Kind("work", work)))
    await _request(served, "wait", *(f"database-{number}" for number in range(worker.SLOTS + 1)))
    await _eventually(lambda: len(waiting) == worker.SLOTS + 1)

    await _request(served, "work", "pooled")
    await _eventually(lambda: done)

    shown = await _jobs(served, kind="wait")
    assert len(shown) == worker.SLOTS + 1
    assert {(job["attempts"], job["error"]) for job in shown} == {(0, "the database is created")}


async def test_bulk_jobs_leave_slots_to_interactive_ones_and_security_jobs_have_their_own(start) -> None:
    running: list[str] = []
    gate = asyncio.Event()

    async def work(job) -> None:
        running.append(job.key)
        await gate.wait()

    served = await start(_service(Kind("work", work, concurrency=100)))
    await _request(served, "work", *(f"bulk-{number}" for number in range(20)), priority=Priority.BULK)
    bulk = worker.SLOTS - worker.INTERACTIVE_SLOTS
    await _eventually(lambda: len(running) == bulk)
    await _request(served, "work", *(f"interactive-{number}" for number in range(20)))
    await _eventually(lambda: len(running) == worker.SLOTS)
    await _request(served, "work", "security", priority=Priority.SECURITY)
    await _eventually(lambda: "security" in running)

    assert sum(key.startswith("interactive") for key in running) == worker.INTERACTIVE_SLOTS
    gate.set()


async def test_a_job_whose_code_raises_backs_off_and_is_shown_while_others_go_on(start) -> None:
    done: list[str] = []

    async def broken(_job) -> None:
        raise ZeroDivisionError("share of nothing")

    async def refused(_job) -> None:
        raise AttemptFailedError("no account", after_s=500, detail="cus_1")

    async def work(job) -> None:
        done.append(job.key)

    served = await start(
        _service(Kind("broken", broken, RELAY, recurring=True), Kind("refused", refused), Kind("work", work))
    )
    await _request(served, "refused", "one")

    async def both_failed():
        return len([job for job in await _jobs(served) if job["attempts"]]) == 2

    await until(both_failed)
    await _request(served, "work", "other")
    await _eventually(lambda: done)

    failed = {job["kind"]: job["error"] for job in await _jobs(served) if job["attempts"]}
    assert failed == {"broken": "ZeroDivisionError: share of nothing", "refused": "no account"}
    assert served.running.health()["worker"] == "ok"


async def test_a_job_that_is_requested_while_it_runs_runs_again(start) -> None:
    runs: list[int] = []
    gate = asyncio.Event()

    async def work(job) -> None:
        runs.append(job.requests)
        await gate.wait()

    served = await start(_service(Kind("work", work)))
    await _request(served, "work", "one")
    await _eventually(lambda: runs)
    await _request(served, "work", "one")
    await _request(served, "work", "one")
    gate.set()
    await _eventually(lambda: len(runs) == 2)

    assert runs == [1, 3]

    async def gone():
        return not await _jobs(served, kind="work")

    await until(gone)


async def test_a_job_that_another_replica_requests_starts_without_a_poll(start, databases) -> None:
    done: list[str] = []

    async def work(job) -> None:
        done.append(job.key)

    url = await databases.fresh("tenant")
    holder = await start(_service(Kind("work", work)), url=url)
    other = await start(_service(Kind("work", work)), url=url)
    assert RELAY in holder.running.leases.held

    other.running.worker.wake = lambda: None
    async with asyncio.timeout(worker.POLL_S / 3):
        await _request(other, "work", "one")
        await _eventually(lambda: done)


async def test_a_planted_lost_wake_up_is_found(start, monkeypatch) -> None:
    """A worker that clears its event after the claim loses a wake-up that came meanwhile; only the poll repairs it."""
    done: list[str] = []
    claimed = worker.Worker._start_due

    async def late_clear(self) -> float:
        delay_s = await claimed(self)
        await asyncio.sleep(0.2)
        self._wake.clear()
        return delay_s

    async def work(job) -> None:
        done.append(job.key)

    monkeypatch.setattr(worker.Worker, "_start_due", late_clear)
    served = await start(_service(Kind("work", work)))
    served.running._tasks["notices"].cancel()
    for number in range(20):
        await _request(served, "work", f"job-{number}")
        await asyncio.sleep(0.02)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await _eventually(lambda: len(done) == 20)


async def test_an_exclusive_job_is_cancelled_when_its_lease_is_lost(start) -> None:
    states: list[str] = []

    async def call(_job) -> None:
        states.append("running")
        try:
            await asyncio.Event().wait()
        finally:
            states.append("ended")

    served = await start(_service(Kind("call", call, exclusive=True)))
    await _request(served, "call", "one")
    await _eventually(lambda: states)
    leases = served.running.leases
    leases.held = {name: epoch for name, epoch in leases.held.items() if name != RELAY}
    for callback in leases._callbacks:
        callback()

    await _eventually(lambda: states == ["running", "ended"])


@pytest.fixture
def access() -> list[str]:
    return []


@pytest.fixture
def building() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def tenants(start, publish, log, offerings, access, building):
    """Runs the tenant service: a request is built until `building` is set, and a cancellation shuts the tenant out."""
    jobs = JobRegistry()

    @jobs.effect(TenantRequested)
    async def build(_job, _effects):
        access.append("building")
        await building.wait()
        access.append("built")
        yield Outcome(lambda _unit, _at: None, last=True)

    @jobs.effect(TenantCancelled, locks=("access",), priority=Priority.SECURITY)
    async def shut_out(_job, _effects):
        access.append("shut out")
        yield Outcome(lambda _unit, _at: None, last=True)

    served = await start(replace(service(), jobs=jobs))
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    return served


async def test_a_security_job_does_not_wait_for_a_running_job_of_its_tenant(tenants, sign_up, access, building) -> None:
    tenant = (await sign_up(tenants)).json()["id"]
    await _eventually(lambda: access == ["building"])

    fact = TenantCancelled(tenant_id=tenant, origin=HoldOrigin.OPERATOR, reason="fraud")
    await tenants.running.context.decide(
        Origin("test", "test", "service:tenant", ""),
        lambda unit, _: unit.record(TENANTS, tenant, [fact]),
        writes=[TENANTS.key(tenant)],
    )
    await _eventually(lambda: access == ["building", "shut out"])
    building.set()

    await _eventually(lambda: access == ["building", "shut out", "built"])


async def test_operators_list_retry_and_cancel_jobs_as_facts(start, log) -> None:
    failing = True

    async def work(_job) -> None:
        if failing:
            raise AttemptFailedError("not yet", after_s=500)

    async def forever(_job) -> float:
        return 500.0

    served = await start(_service(Kind("work", work), Kind("forever", forever, RELAY, recurring=True)))
    await _request(served, "work", "one", "two")

    async def waiting():
        found = [job for job in await _jobs(served, kind="work") if job["error"]]
        return found if len(found) == 2 else None

    one, two = sorted(await until(waiting), key=lambda job: job["key"])
    failing = False
    answer = await served.client.post(f"/v1/operations/jobs/{one['id']}/retry")
    assert answer.json()["attempts"] == 0

    async def done():
        return (await served.client.get(f"/v1/operations/jobs/{one['id']}")).status_code == 404

    await until(done)
    cancel = f"/v1/operations/jobs/{two['id']}/cancel"
    assert (await served.client.post(cancel, json={"reason": "customer left"})).json()["state"] == "cancelled"
    again = await served.client.post(cancel, json={"reason": "customer left"})
    (recurring,) = await _jobs(served, kind="forever")
    refused = await served.client.post(f"/v1/operations/jobs/{recurring['id']}/cancel", json={"reason": "no"})

    assert (again.status_code, again.json()["code"]) == (409, "job_ended")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_recurring")
    assert [job["id"] for job in await _jobs(served, state="ended")] == [two["id"]]
    retried, cancelled = await log.facts("tenant.job_retried", "tenant.job_cancelled", at_least=2)
    assert (retried.event.job_id, cancelled.event.job_id) == (one["id"], two["id"])
    assert cancelled.event.reason == "customer left"

    await served.client.post(f"/v1/operations/jobs/{two['id']}/retry")

    async def taken_back():
        return (await served.client.get(f"/v1/operations/jobs/{two['id']}")).status_code == 404

    await until(taken_back)


async def test_an_effect_past_its_deadline_is_not_tried_again(start, publish, log, offerings, sign_up) -> None:
    jobs = JobRegistry()
    attempts: list[int] = []

    @jobs.effect(TenantRequested, within_s=0.0)
    async def build(job, _effects):
        attempts.append(job.attempt)
        raise ConnectionResetError("cut off")
        yield

    served = await start(replace(service(), jobs=jobs))
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    await sign_up(served)

    async def failed():
        return await _jobs(served, state="failed")

    (job,) = await until(failed)
    assert (job["kind"], job["attempts"], attempts) == ("build", 1, [1])
    assert job["deadline"] is not None


async def test_ended_jobs_are_deleted_after_their_retention_and_do_not_slow_the_lists(start, databases) -> None:
    served = await start(_service(), job_retention_days=7)
    url = served.running.settings.database_url
    await databases.execute(
        url,
        "tenant",
        "INSERT INTO chassis.job (kind, key, queue, locks, lease, priority, state, due, ended_at, event_id) "
        "SELECT 'old', 'k', 'q', '{resource}', 'relay', 1, 'done', now(), now() - make_interval(mins => n), "
        "gen_random_uuid() FROM generate_series(1, 20160) AS n",
    )
    await databases.execute(url, "tenant", "ANALYZE chassis.job")
    plans = ""
    for statement in (
        "SELECT count(*) FROM chassis.job WHERE state = 'pending' AND event_id IS NOT NULL",
        "SELECT count(*) FROM chassis.job WHERE state = 'failed'",
        "SELECT * FROM chassis.job WHERE state = 'pending' ORDER BY priority, due, job_id LIMIT 100",
        "SELECT * FROM chassis.job WHERE state = 'failed' ORDER BY position LIMIT 100",
        "SELECT * FROM chassis.job WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT 100",
    ):
        plans += "\n".join(row[0] for row in await databases.execute(url, "tenant", f"EXPLAIN {statement}"))

    deleted = await served.running.jobs.delete_ended(timedelta(days=7))

    assert "Seq Scan" not in plans
    assert 10_079 <= deleted <= 10_081
    assert len(await _jobs(served, state="ended", limit=500)) == 500


async def test_no_two_jobs_work_on_one_resource_at_a_time(start) -> None:
    """Random jobs of two tenants with one or two locks, in all classes: no two that share a lock overlap."""
    active: list[set[tuple[str, str]]] = []
    overlaps, order = [], []

    async def work(job) -> None:
        own = {(job.queue, lock) for lock in job.locks}
        overlaps.extend(own & other for other in active if own & other)
        active.append(own)
        await asyncio.sleep(0.001)
        active.remove(own)
        order.append((job.queue, job.locks, int(job.key)))

    served = await start(_service(Kind("work", work, concurrency=0)))
    async with served.running.database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO chassis.job (kind, key, queue, locks, lease, priority, state, due) "
                "SELECT 'work', n::text, 'tenant-' || n % 2, "
                "CASE n % 3 WHEN 0 THEN '{resource}'::text[] WHEN 1 THEN '{access}' ELSE '{resource,access}' END, "
                "'relay', n % 3, 'pending', now() FROM generate_series(1, 120) AS s (n) ORDER BY s.n"
            )
        )
    served.running.worker.kinds["work"] = Kind("work", work)
    served.running.worker.wake()
    await _eventually(lambda: len(order) == 120)

    assert overlaps == []
    for tenant in ("tenant-0", "tenant-1"):
        for lock in (RESOURCE, "access"):
            numbers = [number for queue, locks, number in order if queue == tenant and lock in locks]
            assert numbers == sorted(numbers)
