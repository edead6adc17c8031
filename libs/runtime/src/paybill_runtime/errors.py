"""What can go wrong in the chassis itself, as opposed to a rule that says no."""

from socket import gaierror

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError


class ConfigurationError(Exception):
    """A setting is missing or wrong: the message says which and what to do."""


class LeaseLostError(Exception):
    """Another process owns this partition now; whatever was decided here must not be committed."""


class DatabaseUnavailableError(Exception):
    """PostgreSQL does not answer; nothing was decided, so the caller can try again."""


class OverloadedError(Exception):
    """Too much waits already; the caller should come back later."""


_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    ConnectionError,
    TimeoutError,
    gaierror,
    PoolTimeoutError,
)


def is_away(error: BaseException) -> bool:
    """Whether this error says that PostgreSQL is not there, rather than that a statement was wrong."""
    if isinstance(error, DatabaseUnavailableError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    cause = (error.orig.__cause__ or error.orig) if isinstance(error, DBAPIError) and error.orig else error
    return isinstance(cause, _AWAY) or (isinstance(cause, asyncpg.InterfaceError) and "closed" in str(cause))


def is_collision(error: BaseException) -> bool:
    """Whether two transactions met: deadlock or serialization failure. Running it again resolves it."""
    cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else error
    return isinstance(cause, asyncpg.DeadlockDetectedError | asyncpg.SerializationError)
