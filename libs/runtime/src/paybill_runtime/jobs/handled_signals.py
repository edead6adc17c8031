"""Signals of handled messages, for jobs that wait until their service has handled a fact."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class HandledSignals:
    """Signals which messages this process has handled. Another process may handle one without a signal."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Event] = {}

    def announce(self, ids: Iterable[str]) -> None:
        """Signals that the messages with these ids were handled, and that this is committed."""
        for id_ in self._waiting.keys() & set(ids):
            self._waiting[id_].set()

    @contextmanager
    def signal(self, id_: str) -> Iterator[asyncio.Event]:
        """Provides the signal of one message. Begin to wait before the check whether it was handled earlier."""
        event = self._waiting.setdefault(id_, asyncio.Event())
        try:
            yield event
        finally:
            self._waiting.pop(id_, None)
