"""What the process's exit code says: one table for every command."""

from enum import IntEnum
from typing import Self


class ExitCode(IntEnum):
    """A stable number; `meaning` is shown by `paybill --help`."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        """Keep the words beside the number."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "done"
    FAILED = 1, "failed, or a check found something wrong"
    USAGE = 2, "wrong use, or input that was refused before anything was sent"
    NOT_FOUND = 4, "what was named does not exist"
    DENIED = 5, "no key, a wrong key, or not allowed"
    CONFLICT = 6, "its state does not allow it now: look again, then decide"
    TIMEOUT = 8, "still running when the wait ended; its id was printed"
    VERIFICATION_FAILED = 9, "the log and the live state differ"
    UNREACHABLE = 10, "nothing answers there"
    INTERRUPTED = 130, "interrupted by Ctrl-C"


def table() -> str:
    """The codes and what they mean, on one line."""
    return "; ".join(f"{code.value} {code.meaning}" for code in ExitCode)
