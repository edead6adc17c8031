"""Sources of time and ids, kept out of the rules, and the delays of loops."""

import asyncio
import os
import time
from datetime import UTC, datetime

FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 300.0


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> None:
    """Returns when `event` is set, or after `timeout_s`: for loops that also poll as a backstop."""
    try:
        async with asyncio.timeout(timeout_s):  # not wait_for: before 3.12 it can swallow a cancellation
            await event.wait()
    except TimeoutError:
        return


def backoff_s(attempts: int, longest_s: float = MAX_BACKOFF_S) -> float:
    """Returns the delay after this many failed attempts: exponential, by default at most five minutes."""
    return float(min(FIRST_BACKOFF_S * 2.0 ** min(attempts - 1, 30), longest_s))


def now() -> datetime:
    """Returns the current time, aware and in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """Returns a UUID version 7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, so new ids sort last."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
