"""Answers to calls and their refusals: the same for every endpoint."""

from dataclasses import dataclass
from typing import Any

from paybill_contracts.agent_bundles import Scalar
from paybill_contracts.errors import ConflictError, DomainError, ForbiddenError, NotFoundError, RetryLaterError
from paybill_contracts.values import Timestamp

PlainFields = dict[str, Scalar | None]
"""Fields of a row in plain text, by column."""


@dataclass(frozen=True, slots=True)
class NextStep:
    """A step that is allowed next. tool: its name in the list of tools; slots: values that the model gives.

    choices: options of which the model chooses one.
    """

    tool: str
    step: str
    slots: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Returns its JSON form."""
        return {"tool": self.tool, "step": self.step, "slots": list(self.slots), "choices": list(self.choices)}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a call. seq: number of the next call; ended: reason of the end of the run.

    values: by step, the row that this call has read or written, or what it has computed or chosen. rows: by step, the
    rows of a step that reads or writes several.
    """

    run: str
    seq: int
    values: dict[str, PlainFields]
    rows: dict[str, list[PlainFields]]
    next: tuple[NextStep, ...]
    ended: str | None = None

    def document(self) -> dict[str, Any]:
        """Returns its JSON form, which both endpoints send."""
        return {
            "run": self.run,
            "seq": self.seq,
            "state": "waiting" if self.ended is None else "ended",
            "step": self.next[0].step if self.next else None,
            "values": self.values,
            "rows": self.rows,
            "next": [each.document() for each in self.next],
            "ended": self.ended,
        }


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """The approval that a call waits for. address: its path in the REST endpoint."""

    id: str
    address: str
    expires_at: Timestamp


class RefusalError(DomainError):
    """A call is refused. next: the steps that are allowed; run, seq: number of the next call, when the run is known."""

    def __init__(
        self,
        error: DomainError,
        next_steps: tuple[NextStep, ...] = (),
        approval: PendingApproval | None = None,
        run: str | None = None,
        seq: int | None = None,
    ) -> None:
        super().__init__(str(error))
        self.code = error.code  # type: ignore[misc]  # the code of an instance is that of the rule that refused
        self.next = next_steps
        self.approval = approval
        self.run = run
        self.seq = seq
        self.details = {"next": [each.document() for each in next_steps], "run": run, "seq": seq}
        if approval is not None:
            expires_at = approval.expires_at.isoformat()
            self.details["approval"] = {"id": approval.id, "address": approval.address, "expires_at": expires_at}

    def document(self) -> dict[str, Any]:
        """Returns its JSON form, which the MCP endpoint sends; over REST it is part of the problem."""
        return {"code": self.code, "message": str(self), **self.details}


class NotFoundRefusalError(RefusalError, NotFoundError):
    """A refusal because something does not exist."""


class ConflictRefusalError(RefusalError, ConflictError):
    """A refusal because of a state."""


class ForbiddenRefusalError(RefusalError, ForbiddenError):
    """A refusal because the caller may not do this."""


class LaterRefusalError(RefusalError, RetryLaterError):
    """A refusal for now."""


_KINDS: tuple[tuple[type[DomainError], type[RefusalError]], ...] = (
    (NotFoundError, NotFoundRefusalError),
    (ConflictError, ConflictRefusalError),
    (ForbiddenError, ForbiddenRefusalError),
    (RetryLaterError, LaterRefusalError),
)


def refusal(
    error: DomainError,
    next_steps: tuple[NextStep, ...] = (),
    approval: PendingApproval | None = None,
    run: str | None = None,
    seq: int | None = None,
) -> RefusalError:
    """Returns the refusal of a call, of the same kind as the error of the rule."""
    kind = next((refused for kind, refused in _KINDS if isinstance(error, kind)), RefusalError)
    return kind(error, next_steps, approval, run, seq)
