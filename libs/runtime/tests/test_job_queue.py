"""Job queue: classes, locks, slots and fairness, and jobs that wait or fail."""

import asyncio
from dataclasses import replace

import pytest
from job_testbed import eventually, job_service, jobs_of, request
from paybill_contracts.envelope import Origin
from paybill_contracts.tenant import HoldOrigin, TenantCancelled, TenantRequested
from paybill_runtime import clock
from paybill_runtime.database.leases import RELAY
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.job_rows import RESOURCE, JobRequest, Priority, request_job
from paybill_runtime.jobs import worker
from paybill_runtime.jobs.effects import JobRegistry, Outcome
from paybill_runtime.jobs.kinds import AttemptFailedError, Kind, Limit, RetryAfter
from paybill_runtime.testing import until
from paybill_tenant.app import service
from paybill_tenant.tables import TENANTS
from sqlalchemy import text


@pytest.mark.parametrize("held", [True, False])
def test_a_requested_job_sends_a_notice_only_to_another_process(held) -> None:
    statement = Statement(lambda lease: held and lease == RELAY)

    request_job(statement, JobRequest("work", "a", RELAY, clock.now()))

    assert statement.requires_jobs
    assert statement.preconditions == ([] if held else ["pg_notify('paybill_jobs', '')"])


class _ForgetfulTurns(dict):
    """Injected bug: the turns always begin at the first queue."""

    def __setitem__(self, _priority, _queue) -> None:
        return


async def _delay_of_another(start, turns: type[dict]) -> int:
    """Returns how many jobs of a tenant with 1,000 run before the only job of another tenant, at most 100."""
    done: list[str] = []

    async def work(job) -> None:
        await asyncio.sleep(0.002)
        done.append(job.queue)

    served = await start(job_service(Kind("work", work, concurrency=1)))
    served.running.worker._after = turns(dict.fromkeys(Priority, ""))
    await request(served, "work", *(f"many-{number}" for number in range(1000)), queue="a-tenant-with-many")
    await eventually(lambda: len(done) > 20)
    await request(served, "work", "single", queue="z-another")
    before = len(done)
    await eventually(lambda: "z-another" in done or len(done) > before + 100)
    return [*done, "z-another"].index("z-another") - before


async def test_a_tenant_with_a_thousand_jobs_delays_another_s_job_by_at_most_two_job_lengths(start) -> None:
    assert await _delay_of_another(start, dict) <= 2


async def test_an_injected_starvation_is_detected(start) -> None:
    assert await _delay_of_another(start, _ForgetfulTurns) > 2


async def test_tenants_with_many_jobs_take_turns(start) -> None:
    done: list[str] = []

    async def work(job) -> None:
        done.append(job.queue)

    served = await start(job_service(Kind("work", work, concurrency=0)))
    for tenant in ("a", "b", "c"):
        await request(served, "work", *(f"{tenant}-{number}" for number in range(5)), queue=tenant)
    served.running.worker.kinds["work"] = Kind("work", work, concurrency=1)
    served.running.worker.wake()
    await eventually(lambda: len(done) == 15)

    assert done == ["a", "b", "c"] * 5


async def test_jobs_that_wait_for_the_outside_leave_their_slots_to_others(start) -> None:
    waiting, done = [], []

    async def wait(job) -> None:
        waiting.append(job.attempts)
        raise RetryAfter(600, "the database is created")

    async def work(job) -> None:
        done.append(job.key)

    served = await start(job_service(Kind("wait", wait), Kind("work", work)))
    await request(served, "wait", *(f"database-{number}" for number in range(worker.SLOTS + 1)))
    await eventually(lambda: len(waiting) == worker.SLOTS + 1)

    await request(served, "work", "pooled")
    await eventually(lambda: done)

    shown = await jobs_of(served, kind="wait")
    assert len(shown) == worker.SLOTS + 1
    assert {(job["attempts"], job["error"]) for job in shown} == {(0, "the database is created")}


async def test_bulk_jobs_leave_slots_to_interactive_ones_and_security_jobs_have_their_own(start) -> None:
    running: list[str] = []
    gate = asyncio.Event()

    async def work(job) -> None:
        running.append(job.key)
        await gate.wait()

    served = await start(job_service(Kind("work", work, concurrency=100)))
    await request(served, "work", *(f"bulk-{number}" for number in range(20)), priority=Priority.BULK)
    bulk = worker.SLOTS - worker.INTERACTIVE_SLOTS
    await eventually(lambda: len(running) == bulk)
    await request(served, "work", *(f"interactive-{number}" for number in range(20)))
    await eventually(lambda: len(running) == worker.SLOTS)
    await request(served, "work", "security", priority=Priority.SECURITY)
    await eventually(lambda: "security" in running)

    assert sum(key.startswith("interactive") for key in running) == worker.INTERACTIVE_SLOTS
    gate.set()


async def test_a_kind_whose_slots_are_used_does_not_delay_the_jobs_behind_it(start) -> None:
    running, done = [], []
    gate = asyncio.Event()

    async def hang(job) -> None:
        running.append(job.key)
        await gate.wait()

    async def work(job) -> None:
        done.append(job.key)

    served = await start(job_service(Kind("hang", hang, concurrency=2), Kind("work", work)))
    await request(served, "hang", *(f"a-{number:03}" for number in range(100)))
    await eventually(lambda: len(running) == 2)
    await request(served, "work", "z")

    await eventually(lambda: done)
    gate.set()

    assert (done, running[:2]) == (["z"], ["a-000", "a-001"])


async def test_jobs_requested_while_their_kind_is_full_start_when_one_ends(start) -> None:
    """Nothing but the end of the running job wakes the worker: no notice is sent."""
    done: list[str] = []
    gate = asyncio.Event()

    async def work(job) -> None:
        done.append(job.key)
        await gate.wait()

    served = await start(job_service(Kind("work", work, concurrency=1)))
    await request(served, "work", "a")
    await eventually(lambda: done)

    statement = Statement(lambda _: True)
    for key in ("a", "b"):
        request_job(statement, JobRequest("work", key, RELAY, clock.now()))
    async with served.running.database.direct(committing=True) as connection:
        await statement.execute(connection)
    served.running.worker.wake("work")
    gate.set()

    await eventually(lambda: sorted(done) == ["a", "a", "b"])


async def test_kinds_with_one_limit_share_it(start) -> None:
    running, done = [], []
    gate = asyncio.Event()

    async def hang(job) -> None:
        running.append(job.kind)
        await gate.wait()

    async def work(job) -> None:
        done.append(job.key)

    limit = Limit("calls of a provider", 3)
    kinds = [Kind(name, hang, shared_limit=limit) for name in ("open", "close")]
    served = await start(job_service(*kinds, Kind("work", work)))
    for number in range(5):
        await request(served, "open", f"a-{number}")
        await request(served, "close", f"b-{number}")
    await eventually(lambda: len(running) == 3)

    await request(served, "work", "z")
    await eventually(lambda: done)

    assert len(running) == 3
    gate.set()
    await eventually(lambda: len(running) == 10)


async def test_an_external_system_that_does_not_answer_leaves_the_slots_of_others(start) -> None:
    running, done = [], []
    gate = asyncio.Event()

    async def call(job) -> None:
        if job.kind.endswith("/hanging"):
            running.append(job.key)
            await gate.wait()
        done.append(job.kind)

    limit = Limit("calls", 2, per="provider")
    served = await start(job_service(*(Kind(name, call, shared_limit=limit) for name in ("open", "close"))))
    for number in range(5):
        await request(served, "open/hanging", f"a-{number}")
        await request(served, "close/hanging", f"b-{number}")
    await eventually(lambda: len(running) == 2)

    await request(served, "open/other", "z")
    await eventually(lambda: done)

    assert (done, len(running)) == (["open/other"], 2)
    gate.set()
    await eventually(lambda: len(running) == 10)


async def test_a_job_whose_code_raises_backs_off_and_is_shown_while_others_go_on(start) -> None:
    done: list[str] = []

    async def broken(_job) -> None:
        raise ZeroDivisionError("share of nothing")

    async def refused(_job) -> None:
        raise AttemptFailedError("no account", after_s=500, detail="cus_1")

    async def work(job) -> None:
        done.append(job.key)

    served = await start(
        job_service(Kind("broken", broken, RELAY, recurring=True), Kind("refused", refused), Kind("work", work))
    )
    await request(served, "refused", "one")

    async def both_failed():
        return len([job for job in await jobs_of(served) if job["attempts"]]) == 2

    await until(both_failed)
    await request(served, "work", "other")
    await eventually(lambda: done)

    failed = {job["kind"]: job["error"] for job in await jobs_of(served) if job["attempts"]}
    assert failed == {"broken": "ZeroDivisionError: share of nothing", "refused": "no account"}
    assert served.running.health()["worker"] == "ok"


async def test_a_job_that_is_requested_while_it_runs_runs_again(start) -> None:
    runs: list[int] = []
    gate = asyncio.Event()

    async def work(job) -> None:
        runs.append(job.requests)
        await gate.wait()

    served = await start(job_service(Kind("work", work)))
    await request(served, "work", "one")
    await eventually(lambda: runs)
    await request(served, "work", "one")
    await request(served, "work", "one")
    gate.set()
    await eventually(lambda: len(runs) == 2)

    assert runs == [1, 3]

    async def gone():
        return not await jobs_of(served, kind="work")

    await until(gone)


async def test_a_job_that_another_replica_requests_starts_without_a_poll(start, databases) -> None:
    done: list[str] = []

    async def work(job) -> None:
        done.append(job.key)

    url = await databases.fresh("tenant")
    holder = await start(job_service(Kind("work", work)), url=url)
    other = await start(job_service(Kind("work", work)), url=url)
    assert RELAY in holder.running.leases.held

    other.running.worker.wake = lambda: None
    async with asyncio.timeout(worker.POLL_S / 3):
        await request(other, "work", "one")
        await eventually(lambda: done)


async def test_an_exclusive_job_is_cancelled_when_its_lease_is_lost(start) -> None:
    states: list[str] = []

    async def call(_job) -> None:
        if "ended" in states:  # the lease is held again soon, and the job runs again
            return
        states.append("running")
        try:
            await asyncio.Event().wait()
        finally:
            states.append("ended")

    served = await start(job_service(Kind("call", call, exclusive=True)))
    await request(served, "call", "one")
    await eventually(lambda: states)
    leases = served.running.leases
    leases.held = {name: epoch for name, epoch in leases.held.items() if name != RELAY}
    for callback in leases._callbacks:
        callback()

    await eventually(lambda: "ended" in states)
    assert states == ["running", "ended"]


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
    await eventually(lambda: access == ["building"])

    fact = TenantCancelled(tenant_id=tenant, origin=HoldOrigin.OPERATOR, reason="fraud")
    await tenants.running.context.decide(
        Origin("test", "test", "service:tenant", ""),
        lambda unit, _: unit.record(TENANTS, tenant, [fact]),
        writes=[TENANTS.key(tenant)],
    )
    await eventually(lambda: access == ["building", "shut out"])
    building.set()

    await eventually(lambda: "built" in access)
    assert access == ["building", "shut out", "built"]


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

    served = await start(job_service(Kind("work", work, concurrency=0)))
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
    await eventually(lambda: len(order) == 120)

    assert overlaps == []
    for tenant in ("tenant-0", "tenant-1"):
        for lock in (RESOURCE, "access"):
            numbers = [number for queue, locks, number in order if queue == tenant and lock in locks]
            assert numbers == sorted(numbers)
