"""Shutdown of a service ends even when a loop ignores its cancellation."""

import asyncio
from dataclasses import replace

from paybill_tenant.app import service


async def test_a_loop_that_swallows_a_cancellation_is_cancelled_again(start) -> None:
    swallowed = asyncio.Event()

    async def stubborn(_context, _leases) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.Event().wait()

    running = await start(replace(service(), background=(stubborn,)))
    await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await running.running.__aexit__(None, None, None)

    assert swallowed.is_set()
