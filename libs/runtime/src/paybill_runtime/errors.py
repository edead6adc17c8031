"""Errors of the runtime itself, and the classification of what PostgreSQL raises."""

from socket import gaierror

import asyncpg
from paybill_contracts.errors import ConflictError, DomainError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_CONTROL = dict.fromkeys([*range(32), 127], " ")
LEASE_LOST = "PB001"
"""The SQLSTATE of a statement whose lease has another owner (a class of our own, as the SQL standard allows)."""
MAX_TEXT = 500
"""Characters of a line that is stored for people to read."""


class ConfigurationError(Exception):
    """A setting is missing or wrong: the message names it and the next step."""


class LeaseLostError(Exception):
    """Another process owns this partition; decisions of this process must not be committed."""


class DatabaseUnavailableError(Exception):
    """PostgreSQL does not answer; nothing was decided, so the caller can try again."""


class DatabaseFullError(DatabaseUnavailableError):
    """PostgreSQL has no space on its disk; nothing was decided, so the caller can try again later."""


class UnknownOutcomeError(DatabaseUnavailableError):
    """PostgreSQL disconnected during a commit: the transaction may or may not be committed."""


class OverloadedError(Exception):
    """The concurrency limit is reached, or too many facts wait in the outbox; the caller should retry later."""


class RequestInProgressError(ConflictError):
    """Two requests ran with one Idempotency-Key; sending the second again returns the first one's response."""

    code = "request_in_progress"


class FactTooLargeError(DomainError):
    """The fact exceeds the size that consumers accept."""

    code = "fact_too_large"


_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutting down, starting up, a statement cancelled by an operator
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.ReadOnlySQLTransactionError,  # a former primary, after a failover
    asyncpg.PostgresIOError,
    asyncpg.InternalClientError,  # a connection that was closed in the middle of a response
    ConnectionError,
    TimeoutError,
    gaierror,
    PoolTimeoutError,
)
_MISCONFIGURED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


def _cause(error: BaseException) -> BaseException:
    """Returns the driver's error below SQLAlchemy's wrapping."""
    return (error.orig.__cause__ or error.orig) if isinstance(error, DBAPIError) and error.orig else error


def is_unavailable(error: BaseException) -> bool:
    """Returns whether PostgreSQL is unreachable, as opposed to a wrong statement."""
    if isinstance(error, DatabaseUnavailableError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    cause = _cause(error)
    return isinstance(cause, _UNAVAILABLE) or (isinstance(cause, asyncpg.InterfaceError) and "closed" in str(cause))


def is_full(error: BaseException) -> bool:
    """Returns whether PostgreSQL answers, but has no space on its disk."""
    return isinstance(_cause(error), asyncpg.DiskFullError)


def is_misconfigured(error: BaseException) -> bool:
    """Returns whether PostgreSQL answers, but rejects this role, password or database name."""
    return isinstance(_cause(error), _MISCONFIGURED)


def sqlstate(error: BaseException) -> str:
    """Returns the SQLSTATE of an error; empty when PostgreSQL did not raise it."""
    return str(getattr(_cause(error), "sqlstate", None) or "")


def constraint_of(error: BaseException) -> str:
    """Returns the name of the violated constraint; empty when no constraint was violated."""
    cause = _cause(error)
    return cause.constraint_name or "" if isinstance(cause, asyncpg.IntegrityConstraintViolationError) else ""


def is_transaction_conflict(error: BaseException) -> bool:
    """Returns whether two transactions conflicted (deadlock or serialization failure); a retry resolves it."""
    return isinstance(_cause(error), asyncpg.DeadlockDetectedError | asyncpg.SerializationError)


def is_infrastructure_error(error: BaseException) -> bool:
    """Returns whether an error is independent of the message that was being handled, so that it has to be retried."""
    infrastructure = DatabaseUnavailableError | LeaseLostError | ConfigurationError
    return isinstance(error, infrastructure) or is_transaction_conflict(error)


def is_unstorable(error: BaseException) -> bool:
    """Returns whether a value contains a character that PostgreSQL cannot store, such as NUL."""
    return isinstance(_cause(error), asyncpg.CharacterNotInRepertoireError | asyncpg.UntranslatableCharacterError)


def single_line(text: str) -> str:
    """Returns `text` for an event or a table: one line, bounded, without characters that PostgreSQL cannot store."""
    return text.encode("utf-8", "replace").decode().translate(_CONTROL).strip()[:MAX_TEXT] or "-"


def reason(error: BaseException) -> str:
    """Returns the text for operators: the kind of error and its first line, bounded."""
    lines = str(error).splitlines()
    return single_line(f"{type(error).__name__}: {lines[0] if lines else ''}")
