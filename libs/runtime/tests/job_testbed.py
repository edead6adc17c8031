"""A service that only runs jobs, and requests for them."""

from dataclasses import replace

from fastapi import APIRouter
from paybill_runtime import clock
from paybill_runtime.database.leases import RELAY
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.job_rows import JobRequest, Priority, request_job
from paybill_runtime.jobs.kinds import Kind
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.testing import until
from paybill_tenant.app import service


def job_service(*kinds: Kind, **more):
    """Returns a service that only runs jobs of these kinds."""
    router = APIRouter(prefix="/v1/none")
    declared = replace(service(), states=(), on_start=(), subscriptions=Subscriptions(), router=lambda _: router)
    return replace(declared, job_kinds=lambda _: kinds, **more)


async def request(served, kind: str, *keys: str, queue: str = "", priority=Priority.INTERACTIVE, lease=RELAY) -> None:
    """Requests jobs in one transaction."""
    statement = Statement()
    for key in keys:
        request_job(statement, JobRequest(kind, key, lease, clock.now(), queue=queue, priority=priority))
    async with served.running.database.direct(committing=True) as connection:
        await statement.execute(connection)
    served.running.worker.wake()


async def jobs_of(served, **query):
    """Returns the jobs that the route lists."""
    answer = await served.client.get("/v1/operations/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def eventually(check):
    """Waits until `check` returns true."""

    async def checked():
        return check()

    return until(checked)
