"""Retries of events whose handler failed: with a growing delay, in order, until the event is a dead letter.

FastStream's own policies either lose such an event or deliver it hundreds of times in a second.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from faststream import BaseMiddleware
from faststream.exceptions import HandlerException, NackMessage, RejectMessage
from faststream.message import StreamMessage
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from paybill_contracts.envelope import Fact, read_fact
from paybill_contracts.errors import DomainError
from typing_extensions import override

from paybill_client.errors import UnreadableEventError

log = logging.getLogger(__name__)

FIRST_DELAY_S, MAX_DELAY_S = 0.2, 60.0
RENEW_S = 1.5
"""Interval at which a running handler keeps its message from being delivered again; the ack wait is 5 s."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was given up after `tries` failures; it stays in Paybill's log at `sequence`."""

    sequence: int
    subject: str
    headers: Mapping[str, str]
    payload: bytes
    error: Exception
    tries: int


OnDeadLetter = Callable[[DeadLetter], Awaitable[None]]


def type_of(message: Msg) -> str:
    """Returns the type of the event in a message of the log."""
    return ".".join(message.subject.split(".")[3:5])


def fact_of(message: Msg) -> Fact:
    """Returns the fact of a message of the log. Raises the errors of `read_fact`."""
    return read_fact(message.subject, message.headers, message.data, message.metadata.sequence.stream)


def dead_letter(message: Msg, error: Exception, tries: int) -> DeadLetter:
    """Returns the dead letter of a message of the log. Its error is the reason why the event cannot be read."""
    if isinstance(error, UnreadableEventError) and isinstance(error.__cause__, DomainError):
        error = error.__cause__
    sequence = message.metadata.sequence.stream
    return DeadLetter(sequence, message.subject, message.headers or {}, message.data, error, tries)


def delay_s(failures: int) -> float:
    """Returns the delay after this many failures in a row."""
    return float(min(FIRST_DELAY_S * 2.0 ** min(failures, 30), MAX_DELAY_S))


def readable_fact_of(message: Msg) -> Fact:
    """Returns the fact of a message of the log. Raises UnreadableEventError."""
    try:
        return fact_of(message)
    except DomainError as error:
        raise UnreadableEventError(
            f"event {message.metadata.sequence.stream} ({message.subject}) cannot be read: {error}",
            "upgrade paybill-client and paybill-contracts, or pass on_dead_letter to continue behind it",
        ) from error


class Retries:
    """Decides about each failure. One event at a time is delivered, so it counts only the current one's failures.

    outages: errors that say nothing about the event, such as a lost database; they are retried without being counted.
    unreadable: the error of an event that no retry can help and no callback takes: the program has to end.
    """

    def __init__(
        self, tries: int | None, outages: tuple[type[Exception], ...], on_dead_letter: OnDeadLetter | None
    ) -> None:
        self._tries = tries
        self._outages = outages
        self._on_dead_letter = on_dead_letter
        self._sequence = 0
        self._failures = 0
        self._counted = 0
        self.unreadable: UnreadableEventError | None = None

    def middleware(self) -> Any:
        """Returns the middleware for FastStream's broker."""
        return partial(_Retry, retries=self)

    async def failed(self, message: Msg, error: Exception) -> NoReturn:
        """Raises NackMessage to try again later, or RejectMessage when the event was given up."""
        sequence = message.metadata.sequence.stream
        if sequence != self._sequence:
            self._sequence, self._failures, self._counted = sequence, 0, 0
        self._failures += 1
        self._counted += not isinstance(error, self._outages)
        text = f"event {sequence} ({message.subject}): {type(error).__name__}: {error}"
        if isinstance(error, UnreadableEventError):
            if self._on_dead_letter is None:
                self.unreadable = error
                raise NackMessage(delay=FIRST_DELAY_S) from error
        elif self._tries is None or self._counted < self._tries:
            wait_s = delay_s(self._failures)
            log.warning("retrying in %.1f s: %s", wait_s, text)
            raise NackMessage(delay=wait_s) from error
        if self._on_dead_letter is not None:
            try:
                await self._on_dead_letter(dead_letter(message, error, self._counted))
            except Exception as failure:
                log.exception("the callback for dead letters failed; it is called again: %s", text)
                raise NackMessage(delay=delay_s(self._failures)) from failure
        log.error("dead letter after %d tries, continuing behind it: %s", self._counted, text)
        raise RejectMessage from error


class _Retry(BaseMiddleware[Any, Any]):
    """Passes failures to `retries`, and keeps the message of a slow handler from being delivered again."""

    def __init__(self, msg: Any, /, *, context: Any, retries: Retries) -> None:
        super().__init__(msg, context=context)
        self._retries = retries

    @override
    async def consume_scope(self, call_next: Callable[..., Awaitable[Any]], msg: StreamMessage[Any]) -> Any:
        message: Msg = msg.raw_message
        renewing = asyncio.create_task(_renew(message))
        try:
            return await call_next(msg)
        except HandlerException:
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Of a task that the handler awaited: nobody cancelled the program.
            await self._retries.failed(message, RuntimeError(f"the handler was cancelled from inside: {error}"))
        except Exception as error:  # noqa: BLE001  # whatever a handler raises decides about this event alone
            await self._retries.failed(message, error)
        finally:
            renewing.cancel()


async def _renew(message: Msg) -> None:
    while True:
        await asyncio.sleep(RENEW_S)
        with contextlib.suppress(NatsError, OSError):
            await message.in_progress()
