"""Retry of transactions that lost a conflict against another transaction."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from paybill_runtime.errors import constraint_of, is_transaction_conflict

T = TypeVar("T")

MAX_TRIES = 5
_CONFLICT_CONSTRAINTS = {"outbox_aggregate_revision_key", "inbox_pkey"}
"""Constraints whose violation means that another transaction used this revision, or handled this message, first."""


async def retry_on_conflict(act: Callable[[], Awaitable[T]]) -> T:
    """Returns the result of `act`, which is run again when another transaction committed first."""
    for _ in range(MAX_TRIES - 1):
        try:
            return await act()
        except Exception as error:
            if not is_transaction_conflict(error) and constraint_of(error) not in _CONFLICT_CONSTRAINTS:
                raise
    return await act()
