"""Traces of facts, and redaction."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from paybill_runtime.telemetry import child, is_sampled, is_valid_traceparent, span, trace_id
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
