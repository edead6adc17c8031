"""Traces of facts, and redaction."""

from contextlib import suppress

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from paybill_runtime.telemetry import child, is_sampled, is_valid_traceparent, span, trace_id
from paybill_runtime.telemetry.child_spans import ChildSpans
from paybill_runtime.telemetry.redaction import QueryRedaction

UNSAMPLED = f"00-{'5a' * 16}-{'1' * 16}-00"


def test_a_child_continues_the_trace_and_its_sampling() -> None:
    below = child(UNSAMPLED)

    assert is_valid_traceparent(below)
    assert (trace_id(below), is_sampled(below)) == (trace_id(UNSAMPLED), False)
    assert is_sampled(child(None))


def test_without_an_endpoint_a_span_computes_no_attributes() -> None:
    computed = []

    with span("handle", UNSAMPLED, attributes=lambda: {"computed": computed.append("yes") or 1}) as traceparent:
        assert trace_id(traceparent) == trace_id(UNSAMPLED)

    assert computed == []


def test_values_of_a_query_are_redacted_and_its_names_are_kept() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(QueryRedaction())
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    with provider.get_tracer("test").start_as_current_span(
        "GET", attributes={"url.query": "email=anna%40acme.example&limit=5&empty="}
    ):
        pass

    finished = exporter.get_finished_spans()
    assert [one.attributes["url.query"] for one in finished] == ["email=REDACTED&limit=REDACTED&empty=REDACTED"]


@pytest.fixture
def exported():
    """Returns a tracer of ours, one of an instrumentation, and the spans that both have ended."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("ours"), ChildSpans(provider).get_tracer("library"), exporter.get_finished_spans


def test_a_library_makes_spans_only_inside_ours(exported) -> None:
    ours, library, finished = exported

    with library.start_as_current_span("SELECT"):
        library.start_span("COMMIT;").end()
    with ours.start_as_current_span("handle"), library.start_as_current_span("SELECT"):
        library.start_span("COMMIT;").end()

    assert [one.name for one in finished()] == ["COMMIT", "SELECT", "handle"]


def test_a_span_of_a_library_has_no_values_and_no_messages(exported) -> None:
    ours, library, finished = exported
    statement = "CREATE ROLE \"t_1\" LIMIT 25 PASSWORD 'it''s secret'; SELECT $1, a2, $x$it's$x$ FROM b WHERE c > 1.5"
    attributes = {
        "db.query.text": statement,
        "url.full": "https://stripe.example/v1/customers?email=anna%40acme&limit=3",
    }

    with (
        ours.start_as_current_span("job"),
        suppress(ValueError),
        library.start_as_current_span("CREATE", attributes=attributes),
    ):
        raise ValueError("anna@acme.example is taken")

    failed = finished()[0]
    assert failed.attributes == {
        "db.query.text": 'CREATE ROLE "t_1" LIMIT ? PASSWORD ?; SELECT $1, a2, ? FROM b WHERE c > ?',
        "url.full": "https://stripe.example/v1/customers?email=REDACTED&limit=REDACTED",
    }
    assert (failed.events, failed.status.status_code, failed.status.description) == ((), StatusCode.ERROR, None)
