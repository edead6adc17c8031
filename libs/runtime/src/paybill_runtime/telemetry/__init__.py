"""Traces, metrics and JSON log lines.

Guarantee: one trace id connects a request with every fact and log line that it leads to, across services.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from importlib import import_module
from threading import Thread

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from typing_extensions import override

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_propagator = TraceContextTextMapPropagator()

trace_var: ContextVar[str] = ContextVar("trace", default="")
tenant_var: ContextVar[str] = ContextVar("tenant", default="")

_exports: tuple[Callable[[], None], ...] = ()
"""Shutdown functions of the exporters; empty without an OTLP endpoint."""
FLUSH_S = 2.0
meter = metrics.get_meter("paybill")


def is_valid_traceparent(traceparent: str | None) -> bool:
    """Returns whether this is a valid W3C traceparent (https://www.w3.org/TR/trace-context/)."""
    return _TRACEPARENT.fullmatch(traceparent or "") is not None


def trace_id(traceparent: str) -> str:
    """Returns the 32 hex digits that all spans of one trace share."""
    return traceparent[3:35]


def child(parent: str | None) -> str:
    """Returns a traceparent for a span below `parent`; a new trace without a valid parent."""
    digits = os.urandom(24).hex()
    trace_ = trace_id(parent) if parent and is_valid_traceparent(parent) else digits[16:]
    return f"00-{trace_}-{digits[:16]}-01"


class _LogContext:
    """Sets the trace and the tenant of log lines while the block runs; yields `traceparent`."""

    __slots__ = ("_tenant", "_tokens", "_traceparent")

    def __init__(self, traceparent: str, tenant: str | None = None) -> None:
        self._traceparent = traceparent
        self._tenant = tenant

    def __enter__(self) -> str:
        tenant = tenant_var.get() if self._tenant is None else self._tenant
        self._tokens = trace_var.set(trace_id(self._traceparent)), tenant_var.set(tenant)
        return self._traceparent

    def __exit__(self, *_: object) -> None:
        trace, tenant = self._tokens
        trace_var.reset(trace)
        tenant_var.reset(tenant)


def log_context(tenant: str, traceparent: str) -> AbstractContextManager[str]:
    """Sets the tenant and the trace of the log lines of a block."""
    return _LogContext(traceparent, tenant)


def span(name: str, parent: str | None, kind: SpanKind = SpanKind.INTERNAL) -> AbstractContextManager[str]:
    """Opens a span below `parent`; yields its traceparent. Without an OTLP endpoint only ids are created."""
    return _exported(name, parent, kind) if _exports else _LogContext(child(parent))


@contextmanager
def _exported(name: str, parent: str | None, kind: SpanKind) -> Iterator[str]:
    context: Context | None = _propagator.extract({"traceparent": parent}) if parent else None
    attributes = {"paybill.tenant": tenant_var.get()} if tenant_var.get() else None
    with trace.get_tracer("paybill").start_as_current_span(name, context=context, kind=kind, attributes=attributes):
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        with _LogContext(carrier.get("traceparent") or child(parent)) as current:
            yield current


def request_span(method: str, path: str, parent: str | None) -> AbstractContextManager[str]:
    """Opens the span of an HTTP request, unless FastAPI opened it; yields its traceparent."""
    carrier: dict[str, str] = {}
    if _exports:
        _propagator.inject(carrier)
    current = carrier.get("traceparent")
    return _LogContext(current) if current else span(f"{method} {path}", parent, SpanKind.SERVER)


_encode = json.JSONEncoder(ensure_ascii=False).encode
"""Created once: `json.dumps` would create one for each line."""


class _JsonLines(logging.Formatter):
    """Formats a record as one line of JSON, with its trace and tenant."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    @override
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
        return _encode(line)


def configure(service: str, level: str) -> None:
    """Logs JSON lines to stderr; exports traces and metrics if OTEL_EXPORTER_OTLP_ENDPOINT is set."""
    global _exports  # noqa: PLW0603  # set once, while starting; read on the hot path
    # Our lines do not contain these fields, and collecting them is a fifth of a line's cost.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("uvicorn", "httpx", "httpcore", "nats", "stripe"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # FastStream logs the stack of every error of a handler; the consumer receives the same error and reports it.
    logging.getLogger("faststream").setLevel(logging.CRITICAL)
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        # Importing the exporters costs 4 MB and 0.3 s, and most laptops have no endpoint.
        _exports = import_module("paybill_runtime.telemetry.otlp").export(service)


def flush() -> None:
    """Exports buffered spans and metrics before the process ends, within FLUSH_S."""
    threads = [Thread(target=shutdown, daemon=True) for shutdown in _exports]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + FLUSH_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
