"""Polls with a deadline."""

import time

from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode

POLL_S = 0.25


class Deadline:
    """End of a wait. `next`: the command that shows the state later."""

    def __init__(self, timeout_s: float, next: str = "") -> None:  # noqa: A002  # as in CliError
        self._end = time.monotonic() + timeout_s
        self._next = next

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; not negative."""
        return max(self._end - time.monotonic(), 0.0)

    def pause(self, text: str) -> None:
        """Sleeps until the next poll. After the deadline it raises CliError still_running with `text`."""
        if not self.left_s:
            raise CliError(
                "still_running",
                text,
                why="the timeout is over; nothing was stopped",
                next=self._next,
                exit_code=ExitCode.TIMEOUT,
            )
        time.sleep(POLL_S)
