"""Spans that instrumentations of libraries make below ours: statements of asyncpg, and calls of httpx."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Span, StatusCode, Tracer, TracerProvider
from typing_extensions import override

MAX_TEXT = 1000
"""Characters of a statement; our longest have about 3,000."""
_STATEMENT, _URL = "db.query.text", "url.full"
_LITERAL = re.compile(r"'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|(?<![\w$.])\d+(?:\.\d+)?\b", re.DOTALL)
_WITHOUT_MESSAGES = {"record_exception": False, "set_status_on_exception": False}


class ChildSpans(TracerProvider):
    """Gives an instrumentation tracers that make spans only below a recorded span.

    The statement of a background loop has no parent, and would be a trace of its own at every poll. Literals of a
    statement, values of a query and messages of errors are not recorded: they may contain personal data and passwords.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    @override
    def get_tracer(self, *arguments: Any, **named: Any) -> Tracer:
        return _ChildTracer(self._provider.get_tracer(*arguments, **named))


class _ChildTracer(Tracer):
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @override
    def start_span(self, name: str, *arguments: Any, **named: Any) -> Span:
        if not trace.get_current_span().is_recording():
            return INVALID_SPAN
        return self._tracer.start_span(name.rstrip(";"), *arguments, **_without_values(named))

    @override
    def start_as_current_span(self, name: str, *arguments: Any, **named: Any) -> AbstractContextManager[Span]:  # type: ignore[override]  # of the SDK's decorator only this part is used
        if not trace.get_current_span().is_recording():
            return nullcontext(INVALID_SPAN)
        return self._failing(self._tracer.start_as_current_span(name.rstrip(";"), *arguments, **_without_values(named)))

    @staticmethod
    @contextmanager
    def _failing(opened: AbstractContextManager[Span]) -> Iterator[Span]:
        """Gives the span the status of a failure when the block raises."""
        with opened as span:
            try:
                yield span
            except Exception:
                span.set_status(StatusCode.ERROR)
                raise


def _without_values(named: dict[str, Any]) -> dict[str, Any]:
    attributes = dict(named.get("attributes") or {})
    if _STATEMENT in attributes:
        attributes[_STATEMENT] = _LITERAL.sub("?", str(attributes[_STATEMENT]))[:MAX_TEXT]
    if _URL in attributes:
        parts = urlsplit(str(attributes[_URL]))
        attributes[_URL] = parts._replace(query=redacted_query(parts.query)).geturl()
    return named | _WITHOUT_MESSAGES | {"attributes": attributes}


def redacted_query(query: str) -> str:
    """Returns the query of a URL with the names of its values alone."""
    return "&".join(f"{name}=REDACTED" for name, _ in parse_qsl(query, keep_blank_values=True))
