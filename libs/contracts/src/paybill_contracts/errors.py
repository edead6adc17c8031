"""Kinds of refusals. The kind decides the HTTP status; the code is part of the API and permanent."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar


class DomainError(Exception):
    """A domain rule was violated. `code` is stable; the message names the problem and the next step. HTTP 422."""

    code: ClassVar[str] = "refused"
    details: Mapping[str, Any] = MappingProxyType({})
    """Further members of its problem document, in JSON."""


class NotFoundError(DomainError):
    """The requested object does not exist. HTTP 404."""

    code = "not_found"


class ConflictError(DomainError):
    """The current state does not allow the operation: read it again, then decide. HTTP 409."""

    code = "conflict"


class ForbiddenError(DomainError):
    """The caller may not do this. HTTP 403."""

    code = "forbidden"


class RetryLaterError(DomainError):
    """A dependency of the decision is missing for now. HTTP 503 with Retry-After."""

    code = "not_ready"
