"""Waiting for what a whole stack does in its own time."""

import time
from collections.abc import Callable
from typing import Any

INTERVAL_S = 0.1


def until(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    """Returns the result of `condition` once it is true; raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not happen within {timeout_s} s")
        time.sleep(INTERVAL_S)
    return found
