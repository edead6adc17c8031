"""Progress of a process that starts: a slow start uses processor time; one that is stuck, or only retries, does not."""

import os
from collections.abc import Callable
from pathlib import Path

_SAMPLES = 60
"""Samples of the processor time within the limit."""
_MIN_SHARE = 1 / 60
"""Share of one core that counts as progress. A service that only retries to connect uses a quarter of it."""


class StallDetector:
    """Detects that a start makes no progress.

    limit_s: time without progress after which it is stalled. began: the clock at the start, in seconds.
    """

    def __init__(self, limit_s: float, began: float) -> None:
        self._limit_s = limit_s
        self._progress_at = self._sampled_at = began
        self._processor_s = 0.0
        self._states: set[str] = set()

    def stalled(self, now: float, processor_s: Callable[[], float], state: str = "") -> bool:
        """Returns whether the limit passed without a new `state` and without a share of the processor.

        processor_s: returns the processor time that the process has used until now.
        """
        if state not in self._states:
            self._states.add(state)
            self._progress_at = now
        if now - self._sampled_at >= self._limit_s / _SAMPLES:
            self._sampled_at = now
            used_s = processor_s()
            if used_s - self._processor_s >= self._limit_s * _MIN_SHARE:
                self._progress_at, self._processor_s = now, used_s
        return now - self._progress_at > self._limit_s


def processor_time_s(pid: int) -> float:
    """Returns the processor time of a process and its children; 0 when it has ended, and where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text(encoding="ascii").split()
        ]
    except OSError:
        return 0.0
    # utime, stime, cutime and cstime of proc_pid_stat(5); the last two are of children that have ended.
    own_s = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own_s + sum(map(processor_time_s, children))
