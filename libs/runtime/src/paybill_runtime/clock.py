"""Where time and ids come from, so that a rule never has to ask; and how long a loop rests."""

import asyncio
import os
import time
from datetime import UTC, datetime


async def wait_for_event(event: asyncio.Event, within_s: float) -> None:
    """Return when `event` is set, or after `within_s`: what polls as a backstop waits here."""
    try:
        async with asyncio.timeout(within_s):  # not wait_for: before 3.12 it can swallow a cancellation
            await event.wait()
    except TimeoutError:
        return


def now() -> datetime:
    """This moment, aware and in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """A UUID version 7 (RFC 9562, section 5.7): its first 48 bits are Unix milliseconds, so that new ids sort last."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
