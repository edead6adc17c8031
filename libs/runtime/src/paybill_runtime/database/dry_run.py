"""Marks the task of a dry run, in which no transaction is committed."""

from contextvars import ContextVar

from paybill_contracts.errors import DomainError

_requested: ContextVar[bool] = ContextVar("dry_run", default=False)


class NoDryRunError(DomainError):
    """The request changes more than the facts and states of one decision, so that it cannot be a dry run."""

    code = "no_dry_run"

    def __init__(self) -> None:
        super().__init__("this request has no dry run; nothing was changed")


def request_dry_run(*, requested: bool) -> None:
    """Sets whether the rest of this request, which has a task of its own, is a dry run."""
    _requested.set(requested)


def is_dry_run() -> bool:
    """Returns whether this is the task of a dry run."""
    return _requested.get()


def forbid_in_dry_run() -> None:
    """Raises NoDryRunError in a dry run."""
    if is_dry_run():
        raise NoDryRunError
