"""How a command says no: a stable code, what is wrong, why, and what to do next."""

from typing import Any

from paybill_cli.exit_codes import ExitCode


class CliError(Exception):
    """The command cannot do what was asked.

    code: stable, for programs. what: one line, what is wrong. why: the reason, if it adds something. next: the command
    or step that helps. trace_id: finds the request in the services' logs.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        why: str = "",
        next: str = "",  # noqa: A002  # the word that is printed
        exit_code: ExitCode = ExitCode.FAILED,
        trace_id: str = "",
    ) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.why = why
        self.next = next
        self.exit_code = exit_code
        self.trace_id = trace_id

    def data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "code": self.code,
            "what": self.what,
            "why": self.why,
            "next": self.next,
            "exit_code": int(self.exit_code),
            "trace_id": self.trace_id,
        }

    def text(self) -> str:
        """For people."""
        rows = (("why", self.why), ("next", self.next), ("trace", self.trace_id))
        return "\n".join(
            [f"error[{self.code}] {self.what}", *(f"  {name:<5} {value}" for name, value in rows if value)]
        )


def usage(what: str, *, code: str = "usage", why: str = "", next: str = "") -> CliError:  # noqa: A002  # as above
    """An error of whoever typed the command; nothing was done."""
    return CliError(code, what, why=why, next=next, exit_code=ExitCode.USAGE)
