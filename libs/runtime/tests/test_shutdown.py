"""Shutdown of a service ends even when a job ignores its cancellation."""

import asyncio
from dataclasses import replace

from paybill_runtime.database.leases import RELAY
from paybill_runtime.jobs.kinds import Kind
from paybill_tenant.app import service


async def test_a_job_that_swallows_a_cancellation_is_cancelled_again(start) -> None:
    swallowed = asyncio.Event()

    started = asyncio.Event()

    async def stubborn(_job) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.Event().wait()

    running = await start(replace(service(), job_kinds=lambda _: [Kind("stubborn", stubborn, RELAY, recurring=True)]))
    await started.wait()

    async with asyncio.timeout(60):
        await running.running.__aexit__(None, None, None)

    assert swallowed.is_set()
