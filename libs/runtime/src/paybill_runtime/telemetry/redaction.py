"""Redaction of personal data in spans that a library makes."""

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor
from typing_extensions import override

from paybill_runtime.telemetry.child_spans import redacted_query

_QUERY = "url.query"


class QueryRedaction(SpanProcessor):
    """Replaces the values of a request's query, in which an operator searches for an address or a customer."""

    @override
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        query = (span.attributes or {}).get(_QUERY)
        if query:
            span.set_attribute(_QUERY, redacted_query(str(query)))
