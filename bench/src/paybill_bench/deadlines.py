"""Deadlines by progress: a loaded machine is slow, but only something that stopped makes no progress."""

import time

STALL_S = 60.0
"""Seconds without progress after which a run has failed."""


class StallDetector:
    """Detects that a state stays the same for too long.

    limit_s: the time without a change that is too long.
    """

    def __init__(self, limit_s: float = STALL_S) -> None:
        self._limit_s = limit_s
        self._state: object = None
        self._changed_at = time.monotonic()

    def stalled(self, state: object) -> bool:
        """Returns True when `state` has been equal in all calls of the last `limit_s`."""
        now = time.monotonic()
        if state != self._state:
            self._state, self._changed_at = state, now
        return now - self._changed_at > self._limit_s
