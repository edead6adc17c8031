"""What can go wrong in the chassis itself, as opposed to a rule that says no."""

from socket import gaierror

import asyncpg
from paybill_contracts.errors import ConflictError, DomainError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_CONTROL = dict.fromkeys([*range(32), 127], " ")
LEASE_LOST = "PB001"
"""The SQLSTATE of a statement whose lease has another owner (a class of our own, as the SQL standard allows)."""
MAX_TEXT = 500
"""Characters of a line that is kept for people to read."""


class ConfigurationError(Exception):
    """A setting is missing or wrong: the message says which and what to do."""


class LeaseLostError(Exception):
    """Another process owns this partition now; whatever was decided here must not be committed."""


class DatabaseUnavailableError(Exception):
    """PostgreSQL does not answer; nothing was decided, so the caller can try again."""


class UnknownOutcomeError(DatabaseUnavailableError):
    """PostgreSQL went away during a commit: what was decided may or may not be there."""


class OverloadedError(Exception):
    """Too much waits already; the caller should come back later."""


class RequestInProgressError(ConflictError):
    """Two requests with one Idempotency-Key met; the second has to be sent again to get the first one's answer."""

    code = "request_in_progress"


class FactTooLargeError(DomainError):
    """No reader would accept a fact of this size."""

    code = "fact_too_large"


_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutting down, starting up, a statement cancelled by an operator
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.ReadOnlySQLTransactionError,  # a former primary, after a failover
    asyncpg.PostgresIOError,
    asyncpg.InternalClientError,  # a connection that was given up while PostgreSQL still spoke
    ConnectionError,
    TimeoutError,
    gaierror,
    PoolTimeoutError,
)
_MISCONFIGURED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


def _cause(error: BaseException) -> BaseException:
    """What the driver raised, below SQLAlchemy's wrapping."""
    return (error.orig.__cause__ or error.orig) if isinstance(error, DBAPIError) and error.orig else error


def is_unavailable(error: BaseException) -> bool:
    """Whether this error says that PostgreSQL is not there, rather than that a statement was wrong."""
    if isinstance(error, DatabaseUnavailableError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    cause = _cause(error)
    return isinstance(cause, _AWAY) or (isinstance(cause, asyncpg.InterfaceError) and "closed" in str(cause))


def is_misconfigured(error: BaseException) -> bool:
    """Whether PostgreSQL is there, but not for this role, password or database name."""
    return isinstance(_cause(error), _MISCONFIGURED)


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE that PostgreSQL gave an error; empty when it was not PostgreSQL's."""
    return str(getattr(_cause(error), "sqlstate", None) or "")


def constraint_of(error: BaseException) -> str:
    """The name of the constraint that was violated; empty when none was."""
    cause = _cause(error)
    return cause.constraint_name or "" if isinstance(cause, asyncpg.IntegrityConstraintViolationError) else ""


def is_transaction_conflict(error: BaseException) -> bool:
    """Whether two transactions met: deadlock or serialization failure. Running it again resolves it."""
    return isinstance(_cause(error), asyncpg.DeadlockDetectedError | asyncpg.SerializationError)


def is_infrastructure_error(error: BaseException) -> bool:
    """Whether an error says nothing about what was being handled, so that it is to be handled again."""
    return isinstance(error, DatabaseUnavailableError | LeaseLostError | ConfigurationError) or is_transaction_conflict(
        error
    )


def is_unstorable(error: BaseException) -> bool:
    """Whether a value holds what PostgreSQL cannot keep, such as the character NUL."""
    return isinstance(_cause(error), asyncpg.CharacterNotInRepertoireError | asyncpg.UntranslatableCharacterError)


def single_line(text: str) -> str:
    """`text` as it may stand in a fact or a table: one line, bounded, nothing that PostgreSQL cannot hold."""
    return text.encode("utf-8", "replace").decode().translate(_CONTROL).strip()[:MAX_TEXT] or "-"


def reason(error: BaseException) -> str:
    """What is shown to an operator: the kind of error and its first line, bounded."""
    lines = str(error).splitlines()
    return single_line(f"{type(error).__name__}: {lines[0] if lines else ''}")
