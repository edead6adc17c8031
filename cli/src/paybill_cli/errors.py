"""The error of a command: a stable code, the message, the reason, and the next step."""

from typing import Any

from paybill_stack.errors import StackError

from paybill_cli.client.next_steps import next_step
from paybill_cli.exit_codes import ExitCode


class CliError(Exception):
    """Raised when a command cannot do what was requested.

    code: stable, for programs. message: one line, what is wrong. why: the reason, if it adds something. next: the
    command or step that helps. trace_id: identifies the request in the services' logs.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        why: str = "",
        next: str = "",  # noqa: A002  # the word that is printed
        exit_code: ExitCode = ExitCode.FAILED,
        trace_id: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.why = why
        self.next = next
        self.exit_code = exit_code
        self.trace_id = trace_id

    def data(self) -> dict[str, Any]:
        """Returns the fields of the JSON output."""
        return {
            "code": self.code,
            "what": self.message,
            "why": self.why,
            "next": self.next,
            "exit_code": int(self.exit_code),
            "trace_id": self.trace_id,
        }

    def text(self) -> str:
        """Returns the lines for people."""
        rows = (("why", self.why), ("next", self.next), ("trace", self.trace_id))
        return "\n".join(
            [f"error[{self.code}] {self.message}", *(f"  {name:<5} {value}" for name, value in rows if value)]
        )


def usage(message: str, *, code: str = "usage", why: str = "", next: str = "") -> CliError:  # noqa: A002  # as above
    """Returns the error for wrong arguments or input; nothing was sent. next: by default the help of the command."""
    return CliError(code, message, why=why, next=next or next_step("usage"), exit_code=ExitCode.USAGE)


def cli_error(error: StackError) -> CliError:
    """Returns the CliError for an error of the stack library."""
    return CliError(error.code, error.message, why=error.why, next=error.next, exit_code=ExitCode[error.kind.name])
