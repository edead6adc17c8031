"""Exports traces, metrics and logs to an OTLP endpoint. Imported only when one is set."""

import logging
import os
from collections.abc import Callable
from uuid import uuid4

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from paybill_runtime.telemetry.child_spans import ChildSpans
from paybill_runtime.telemetry.otlp_logs import OtlpHandler
from paybill_runtime.telemetry.redaction import QueryRedaction


def export(service: str, version: str) -> tuple[Callable[[], None], ...]:
    """Starts exporting, configured by the standard variables `OTEL_…`; returns the functions that flush and stop."""
    # Four times as often as by default, a quarter as much: the buffer had 3 MB under load.
    os.environ.setdefault("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "128")
    os.environ.setdefault("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "128")
    resource = Resource.create(
        {"service.name": f"paybill-{service}", "service.version": version, "service.instance.id": str(uuid4())}
    )
    # At exit they would wait for an endpoint that does not answer.
    spans = TracerProvider(resource=resource, shutdown_on_exit=False)
    spans.add_span_processor(QueryRedaction())
    spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(spans)
    # The stable names of the semantic conventions; by default the instrumentations use the older ones.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")
    AsyncPGInstrumentor().instrument(tracer_provider=ChildSpans(spans))  # type: ignore[no-untyped-call]  # it has no types
    exports = [PeriodicExportingMetricReader(OTLPMetricExporter())]
    meters = MeterProvider(exports, resource, shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    logs = LoggerProvider(resource=resource, shutdown_on_exit=False)
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    logging.getLogger().addHandler(OtlpHandler(logs))
    return spans.shutdown, meters.shutdown, logs.shutdown
