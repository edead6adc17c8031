"""Jobs as operators see and change them, their deadline, and the deletion of ended ones."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from job_testbed import eventually, job_service, jobs_of, request
from paybill_contracts.tenant import TenantRequested
from paybill_runtime.database.leases import RELAY
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.jobs.effects import JobRegistry
from paybill_runtime.jobs.kinds import AttemptFailedError, Kind
from paybill_runtime.testing import until
from paybill_tenant.app import service


async def test_operators_list_retry_and_cancel_jobs_as_facts(start, log) -> None:
    failing = True

    async def work(_job) -> None:
        if failing:
            raise AttemptFailedError("not yet", after_s=500)

    async def forever(_job) -> float:
        return 500.0

    served = await start(job_service(Kind("work", work), Kind("forever", forever, RELAY, recurring=True)))
    await request(served, "work", "one", "two")

    async def waiting():
        found = [job for job in await jobs_of(served, kind="work") if job["error"]]
        return found if len(found) == 2 else None

    one, two = sorted(await until(waiting), key=lambda job: job["key"])
    failing = False
    answer = await served.client.post(f"/v1/operations/jobs/{one['id']}/retry")
    assert answer.json().get("attempts") == 0, answer.text

    async def done():
        return (await served.client.get(f"/v1/operations/jobs/{one['id']}")).status_code == 404

    await until(done)
    cancel = f"/v1/operations/jobs/{two['id']}/cancel"
    assert (await served.client.post(cancel, json={"reason": "customer left"})).json()["state"] == "cancelled"
    again = await served.client.post(cancel, json={"reason": "customer left"})
    (recurring,) = await jobs_of(served, kind="forever")
    refused = await served.client.post(f"/v1/operations/jobs/{recurring['id']}/cancel", json={"reason": "no"})

    assert (again.status_code, again.json()["code"]) == (409, "job_ended")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_recurring")
    assert [job["id"] for job in await jobs_of(served, state="ended")] == [two["id"]]
    retried, cancelled = await log.facts("tenant.job_retried", "tenant.job_cancelled", at_least=2)
    assert (retried.event.job_id, cancelled.event.job_id) == (one["id"], two["id"])
    assert cancelled.event.reason == "customer left"

    await served.client.post(f"/v1/operations/jobs/{two['id']}/retry")

    async def taken_back():
        return (await served.client.get(f"/v1/operations/jobs/{two['id']}")).status_code == 404

    await until(taken_back)


async def test_each_list_of_jobs_has_pages(start) -> None:
    async def work(_job) -> None:
        raise AttemptFailedError("not yet", after_s=500)

    async def pages(**query) -> list[list[str]]:
        found, after = [], ""
        while page := await jobs_of(served, kind="work", limit=3, after=after, **query):
            found.append([job["key"] for job in page])
            after = page[-1]["cursor"]
        return found

    served = await start(job_service(Kind("work", work)))
    keys = [f"key{number}" for number in range(7)]
    await request(served, "work", *keys)

    async def attempted():
        return len([job for job in await jobs_of(served, kind="work") if job["error"]]) == len(keys)

    await until(attempted)
    whole = [job["key"] for job in await jobs_of(served, kind="work")]
    pending = await pages()
    async with served.running.database.direct(committing=True) as connection:
        await connection.execute(
            "UPDATE chassis.job SET state = 'failed', ended_at = '2026-11-22T18:00Z'::timestamptz WHERE kind = 'work'"
        )
    failed, ended = await pages(state="failed"), await pages(state="ended")
    invalid = await served.client.get("/v1/operations/jobs", params={"after": "0/yesterday/x"})
    other = await served.client.get("/v1/operations/jobs", params={"after": "7", "state": "ended"})

    assert [len(page) for page in pending] == [3, 3, 1]
    assert [key for page in pending for key in page] == whole
    for found in (failed, ended):
        assert [len(page) for page in found] == [3, 3, 1]
        assert sorted(key for page in found for key in page) == keys
    assert [answer.json()["code"] for answer in (invalid, other)] == ["invalid_request"] * 2


async def test_jobs_are_listed_by_tenant_and_those_of_an_unknown_kind_are_counted(start) -> None:
    one, two = f"ten_{'1' * 32}", f"ten_{'2' * 32}"

    async def work(_job) -> float:
        return 500.0

    served = await start(job_service(Kind("work", work)))
    await request(served, "work", "a", "b", queue=one)
    await request(served, "work", "c", queue=two)
    await request(served, "work/stripe", "d", queue=two)
    await request(served, "of_a_later_version", "e", queue=two)

    found = [job["key"] for job in await jobs_of(served, tenant=one)]
    counts = (await served.client.get("/v1/operations")).json()

    assert sorted(found) == ["a", "b"]
    assert counts["jobs_unknown"] == {"of_a_later_version": 1}


async def test_a_decision_of_an_operator_is_not_overwritten_by_the_attempt_that_runs(start) -> None:
    gate, runs = asyncio.Event(), []

    async def work(job) -> None:
        runs.append(job.attempts)
        await gate.wait()
        raise AttemptFailedError("not yet", after_s=500)

    served = await start(job_service(Kind("work", work)))
    await request(served, "work", "one")
    await eventually(lambda: runs)
    (job,) = await jobs_of(served, kind="work")
    await served.client.post(f"/v1/operations/jobs/{job['id']}/retry")
    gate.set()

    await eventually(lambda: len(runs) == 2)
    assert runs == [0, 0]


async def test_jobs_that_fail_again_and_again_are_counted_by_class(start) -> None:
    async def work(_job) -> None:
        raise AttemptFailedError("not yet", after_s=0.05)

    async def fail(_job) -> None:
        raise AttemptFailedError("refused", after_s=500)

    served = await start(job_service(Kind("work", work), Kind("once", fail)))
    await request(served, "once", "four")
    await request(served, "work", "one", "two")
    await request(served, "work", "three", priority=Priority.SECURITY)

    async def counted():
        counts = (await served.client.get("/v1/operations")).json()
        return (counts["jobs_failing"], counts["security_jobs_failing"]) == (2, 1)

    await until(counted)


async def test_a_cancelled_job_is_not_taken_back_beside_a_new_one(start) -> None:
    async def work(_job) -> None:
        raise AttemptFailedError("not yet", after_s=500)

    served = await start(job_service(Kind("work", work)))
    await request(served, "work", "one")
    (first,) = await jobs_of(served, kind="work")
    await served.client.post(f"/v1/operations/jobs/{first['id']}/cancel", json={"reason": "wrong"})
    await request(served, "work", "one")

    again = await served.client.post(f"/v1/operations/jobs/{first['id']}/retry")

    assert (again.status_code, again.json()["code"]) == (409, "job_ended")


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
        return await jobs_of(served, state="failed")

    (job,) = await until(failed)
    assert (job["kind"], job["attempts"], attempts) == ("build", 1, [1])
    assert job["deadline"] is not None


async def test_ended_jobs_are_deleted_after_their_retention_and_do_not_slow_the_lists(start, databases) -> None:
    served = await start(job_service(), job_retention_days=7)
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
        "SELECT count(*) FILTER (WHERE attempts >= 3 AND priority = 0) FROM chassis.job WHERE state = 'pending'",
        "SELECT count(*) FROM chassis.job WHERE state = 'failed'",
        "SELECT * FROM chassis.job WHERE state = 'pending' ORDER BY priority, due, job_id LIMIT 100",
        "SELECT * FROM chassis.job WHERE state = 'failed' ORDER BY position LIMIT 100",
        "SELECT * FROM chassis.job WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT 100",
    ):
        plans += "\n".join(row[0] for row in await databases.execute(url, "tenant", f"EXPLAIN {statement}"))

    await served.running.jobs.delete_ended(timedelta(days=7))  # the service may do it at the same time

    [left] = await databases.execute(url, "tenant", "SELECT count(*) AS n FROM chassis.job WHERE kind = 'old'")
    assert "Seq Scan" not in plans
    assert 10_079 <= left["n"] <= 10_081
    assert len(await jobs_of(served, state="ended", limit=500)) == 500


async def test_old_responses_to_idempotency_keys_are_deleted_in_parts(start, databases) -> None:
    served = await start(job_service())
    url = served.running.settings.database_url
    await databases.execute(
        url,
        "tenant",
        "INSERT INTO chassis.idempotency (key, digest, answer, created_at) "
        "SELECT 'key-' || n, '', '', now() - make_interval(hours => n, mins => -30) "
        "FROM generate_series(1, 12000) AS n",
    )

    await served.running.jobs.delete_responses(timedelta(days=30))  # the service may do it at the same time

    [left] = await databases.execute(url, "tenant", "SELECT count(*) AS n FROM chassis.idempotency")
    assert left["n"] == 30 * 24


async def test_old_messages_of_the_quarantine_are_deleted(start, databases) -> None:
    served = await start(job_service())
    url = served.running.settings.database_url
    await databases.execute(
        url,
        "tenant",
        "INSERT INTO chassis.quarantine "
        "(quarantine_id, publisher, subject, headers, payload, reason, sequence, quarantined_at) "
        "SELECT gen_random_uuid(), 'p', 's', '{}', '', 'r', n, now() - make_interval(days => n, hours => -1) "
        "FROM generate_series(1, 120) AS n",
    )

    await served.running.jobs.delete_refused(timedelta(days=90))

    [left] = await databases.execute(
        url, "tenant", "SELECT count(*) AS n, max(sequence) AS oldest FROM chassis.quarantine"
    )
    assert (left["n"], left["oldest"]) == (90, 90)
