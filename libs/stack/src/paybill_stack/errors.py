"""The error of this library: a stable code, the message, the reason, the next step, and the kind of failure."""

from enum import StrEnum


class FailureKind(StrEnum):
    """Kind of failure; a command maps it to its exit code."""

    FAILED = "failed"
    USAGE = "usage"
    DENIED = "denied"
    CONFLICT = "conflict"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"


class StackError(Exception):
    """Raised when the stack cannot be started or prepared.

    code: stable, for programs. message: one line, what is wrong. why: the reason. next: what helps.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        why: str = "",
        next: str = "",  # noqa: A002  # the word that commands print
        kind: FailureKind = FailureKind.FAILED,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.why = why
        self.next = next
        self.kind = kind
