"""Redaction of personal data in spans that a library makes."""

from urllib.parse import parse_qsl

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor
from typing_extensions import override

_QUERY = "url.query"


class QueryRedaction(SpanProcessor):
    """Replaces the values of a request's query, in which an operator searches for an address or a customer."""

    @override
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        query = (span.attributes or {}).get(_QUERY)
        if query:
            names = (name for name, _ in parse_qsl(str(query), keep_blank_values=True))
            span.set_attribute(_QUERY, "&".join(f"{name}=REDACTED" for name in names))
