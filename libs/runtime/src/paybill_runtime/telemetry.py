"""One trace from the first request to the last fact, and log lines that carry it."""

import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_propagator = TraceContextTextMapPropagator()

trace_var: ContextVar[str] = ContextVar("trace", default="")
tenant_var: ContextVar[str] = ContextVar("tenant", default="")

_exporting = False
meter = metrics.get_meter("paybill")


def valid(traceparent: str | None) -> bool:
    """Whether this is a usable W3C traceparent (https://www.w3.org/TR/trace-context/)."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    return match is not None and set(match[1]) != {"0"} and set(match[2]) != {"0"}


def trace_id(traceparent: str) -> str:
    """The 32 hex digits that all spans of one trace share."""
    return traceparent[3:35]


def child(parent: str | None) -> str:
    """A traceparent for work that `parent` led to; a new trace when there is none."""
    trace_ = trace_id(parent) if parent and valid(parent) else secrets.token_hex(16)
    return f"00-{trace_}-{secrets.token_hex(8)}-01"


@contextmanager
def span(name: str, parent: str | None, kind: SpanKind = SpanKind.INTERNAL, **attributes: str | int) -> Iterator[str]:
    """A span below `parent`; yields its traceparent. Without an OTLP endpoint only the ids are made: they cost little."""
    if not _exporting:
        here = child(parent)
        token = trace_var.set(trace_id(here))
        try:
            yield here
        finally:
            trace_var.reset(token)
        return
    context: Context | None = _propagator.extract({"traceparent": parent}) if parent else None
    with trace.get_tracer("paybill").start_as_current_span(name, context=context, kind=kind, attributes=attributes):
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        here = carrier.get("traceparent") or child(parent)
        token = trace_var.set(trace_id(here))
        try:
            yield here
        finally:
            trace_var.reset(token)


class _JsonLines(logging.Formatter):
    """One JSON object a line, with the trace and the tenant that the line belongs to."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace_var.get():
            line["trace"] = trace_var.get()
        if tenant_var.get():
            line["tenant"] = tenant_var.get()
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(service: str, level: str) -> None:
    """Log JSON lines to stderr; send traces and metrics when an OTLP endpoint is set (OTEL_EXPORTER_OTLP_ENDPOINT)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("uvicorn.access", "httpx", "httpcore", "nats", "stripe"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        _export(service)


def _export(service: str) -> None:
    global _exporting  # noqa: PLW0603  # set once, while starting; read on the hot path
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": f"paybill-{service}"})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource))
    _exporting = True


def flush() -> None:
    """Send what is still buffered, before the process ends."""
    provider = trace.get_tracer_provider()
    shutdown = getattr(provider, "shutdown", None)
    if shutdown is not None:
        shutdown()
