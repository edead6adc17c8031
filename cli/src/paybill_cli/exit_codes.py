"""Exit codes of the process: one table for all commands."""

from enum import IntEnum
from typing import Self


class ExitCode(IntEnum):
    """A stable number; `paybill --help` prints its `meaning`."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        """Stores the meaning beside the number."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    OK = 0, "done"
    FAILED = 1, "failed, or a check found a problem"
    USAGE = 2, "wrong arguments, or input that was refused before a request was sent"
    CHANGES = 3, "there are changes, and --exit-code asks for them"
    NOT_FOUND = 4, "the named object does not exist"
    DENIED = 5, "API key missing, wrong, or without the permission"
    CONFLICT = 6, "the current state does not allow it: read the state again, then decide"
    TIMEOUT = 8, "still running after the timeout; its id was printed"
    VERIFICATION_FAILED = 9, "the log and the live state differ"
    UNREACHABLE = 10, "the server does not answer"
    INTERRUPTED = 130, "interrupted by Ctrl-C"


def table() -> str:
    """Returns all codes and their meanings on one line."""
    return "; ".join(f"{code.value} {code.meaning}" for code in ExitCode)
