"""Retry of transactions that lost a conflict, and of calls while PostgreSQL is unavailable."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from random import uniform
from typing import TypeVar

from paybill_runtime.errors import DatabaseUnavailableError, constraint_of, is_transaction_conflict

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_TRIES = 5
MAX_PAUSE_S = 0.005
"""Longest pause after the second conflict; each further one doubles it."""
_CONFLICT_CONSTRAINTS = {"outbox_aggregate_revision_key", "inbox_pkey"}
"""Constraints whose violation means that another transaction used this revision, or handled this message, first."""


async def retry_on_conflict(act: Callable[[], Awaitable[T]]) -> T:
    """Returns the result of `act`, which is run again when another transaction committed first.

    From the second conflict on it pauses at random, so that one of two loops that try in step does not always lose.
    """
    for tries in range(MAX_TRIES - 1):
        if tries > 1:
            await asyncio.sleep(uniform(0, MAX_PAUSE_S * 2 ** (tries - 2)))  # noqa: S311  # not a secret
        try:
            return await act()
        except Exception as error:
            if not is_transaction_conflict(error) and constraint_of(error) not in _CONFLICT_CONSTRAINTS:
                raise
    return await act()


async def retry_until_available(act: Callable[[], Awaitable[object]]) -> None:
    """Runs `act` until PostgreSQL is available: a service may start before its database."""
    while True:
        try:
            await act()
        except DatabaseUnavailableError:
            log.warning("PostgreSQL does not answer; retrying")
            await asyncio.sleep(0.5)
        else:
            return
