"""Handles each event once: a handler runs in a transaction of the caller's storage that also records the event's id.

Without it, an event is handled at least once: a crash between the handler's commit and the acknowledgement delivers
it again. Recording the id before or after the handler, in another transaction, would lose or repeat events.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from paybill_contracts.envelope import Fact
from paybill_contracts.event import Event

E = TypeVar("E", bound=Event)
W = TypeVar("W")

Handler = Callable[[E, Fact], Awaitable[None]]
WorkHandler = Callable[[E, Fact, W], Awaitable[None]]
Transaction = Callable[[Fact], AbstractAsyncContextManager[W | None]]
"""Begins a transaction and records the fact's id in it. Yields the object to work with, or None when the id was
recorded before; commits at the end of the block, and rolls back when the block raises."""


def once(transaction: Transaction[W]) -> Callable[[WorkHandler[E, W]], Handler[E]]:
    """Makes a handler of a function that gets the open transaction as its third argument; a repeated event is skipped.

    @subscriber.on(TenantSuspended)
    @once(transaction)
    async def suspended(event: TenantSuspended, fact: Fact, connection: Connection) -> None: ...
    """

    def wrap(function: WorkHandler[E, W]) -> Handler[E]:
        async def handler(event: E, fact: Fact) -> None:
            async with transaction(fact) as work:
                if work is not None:
                    await function(event, fact, work)

        return handler

    return wrap
