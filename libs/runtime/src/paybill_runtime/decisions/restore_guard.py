"""Restore guard: detects that the stream or the database was restored from a backup without the other."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from paybill_runtime.errors import DatabaseUnavailableError

log = logging.getLogger(__name__)


class LogStateMismatchError(DatabaseUnavailableError):
    """The stream and this database do not belong together, so that no decision is allowed."""


_ACTION = "restore the newer copy (docs/restoring.md); a running service then continues by itself"
OLDER_STREAM = f"the stream was restored from an older copy; {_ACTION}"
OLDER_DATABASE = f"the database was restored from an older copy; {_ACTION}"


class RestoreGuard:
    """The findings of the relay and the consumers. While one of them finds a mismatch, this process decides nothing.

    mismatches: by component, as text for operators.
    """

    def __init__(self) -> None:
        self.mismatches: dict[str, str] = {}

    @contextmanager
    def checking(self, component: str) -> Iterator[None]:
        """Records whether the check in the block raises LogStateMismatchError as the finding of `component`."""
        try:
            yield
        except LogStateMismatchError as error:
            self._report(component, error)
            raise
        self.clear(component)

    def _report(self, component: str, error: LogStateMismatchError) -> None:
        """Logs a finding once."""
        if self.mismatches.get(component) != str(error):
            log.error("%s stops: %s", component, error)
        self.mismatches[component] = str(error)

    def clear(self, component: str) -> None:
        """Removes a finding: the right copy is restored, or the lease that it concerned belongs to another process."""
        if self.mismatches.pop(component, None) is not None:
            log.warning("%s continues: the stream and the database belong together", component)

    @property
    def problem(self) -> str:
        """The reason why nothing is decided; empty without a mismatch."""
        return next(iter(self.mismatches.values()), "")

    def check(self) -> None:
        """Raises LogStateMismatchError while there is a mismatch."""
        if self.mismatches:
            raise LogStateMismatchError(self.problem)
