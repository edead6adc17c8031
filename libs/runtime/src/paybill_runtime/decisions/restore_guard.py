"""Whether the stream and this database belong together: either may have been restored without the other."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from paybill_runtime.errors import DatabaseUnavailableError

log = logging.getLogger(__name__)


class LogStateMismatchError(DatabaseUnavailableError):
    """The stream and this database do not belong together, so nothing may be decided on it."""


OLDER_STREAM = (
    "the stream was restored from an older copy; run `paybill replay --verify`, restore the newer stream, then restart"
)
OLDER_DATABASE = (
    "the database was restored from an older copy; stop the service, restore a newer copy, then start it again"
)


class RestoreGuard:
    """What the relay and the readers have found. While one of them sees a difference, this process decides nothing.

    found: who found what, in words for operators.
    """

    def __init__(self) -> None:
        self.mismatches: dict[str, str] = {}

    @contextmanager
    def checking(self, who: str) -> Iterator[None]:
        """The block compares: whether it raises LogAndStateDisagreeError is what `who` finds."""
        try:
            yield
        except LogStateMismatchError as error:
            self._report(who, error)
            raise
        self.clear(who)

    def _report(self, who: str, error: LogStateMismatchError) -> None:
        """Say it once."""
        if self.mismatches.get(who) != str(error):
            log.error("%s stops: %s", who, error)
        self.mismatches[who] = str(error)

    def clear(self, who: str) -> None:
        """The right copy is there again, or the difference was about leases that we do not hold any more."""
        if self.mismatches.pop(who, None) is not None:
            log.warning("%s goes on: the stream and the database belong together", who)

    @property
    def problem(self) -> str:
        """Why nothing is decided; empty when all is well."""
        return next(iter(self.mismatches.values()), "")

    def check(self) -> None:
        """Raise LogAndStateDisagreeError while anybody has found a difference."""
        if self.mismatches:
            raise LogStateMismatchError(self.problem)
