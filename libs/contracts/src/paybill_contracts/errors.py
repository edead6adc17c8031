"""The kinds of refusal. The kind decides what the edge answers; the code is part of the API and stays."""

from typing import ClassVar


class DomainError(Exception):
    """A rule said no. `code` is stable; the message says what is wrong and what to do next. HTTP 422."""

    code: ClassVar[str] = "refused"


class NotFoundError(DomainError):
    """What was asked for does not exist. HTTP 404."""

    code = "not_found"


class ConflictError(DomainError):
    """The state does not allow it now: read it again, then decide. HTTP 409."""

    code = "conflict"


class ForbiddenError(DomainError):
    """The caller may not do this. HTTP 403."""

    code = "forbidden"


class RetryLaterError(DomainError):
    """A rule cannot decide yet, because something that it depends on is not there. HTTP 503 with Retry-After."""

    code = "not_ready"
