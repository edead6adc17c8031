"""Exports traces and metrics to an OTLP endpoint. Imported only when one is set."""

import os
from collections.abc import Callable

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def export(service: str) -> tuple[Callable[[], None], ...]:
    """Starts exporting, configured by the standard variables `OTEL_…`; returns the functions that flush and stop."""
    # Four times as often as by default, a quarter as much: the buffer had 3 MB under load.
    os.environ.setdefault("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "128")
    resource = Resource.create({"service.name": f"paybill-{service}"})
    # At exit they would wait for an endpoint that does not answer.
    spans = TracerProvider(resource=resource, shutdown_on_exit=False)
    spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(spans)
    exports = [PeriodicExportingMetricReader(OTLPMetricExporter())]
    meters = MeterProvider(exports, resource, shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    return spans.shutdown, meters.shutdown
