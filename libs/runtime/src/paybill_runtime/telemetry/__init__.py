"""One trace from the first request to the last fact, and log lines that carry it."""

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
"""What ends the sending of spans and metrics; empty when there is no endpoint."""
FLUSH_S = 2.0
meter = metrics.get_meter("paybill")


def is_valid_traceparent(traceparent: str | None) -> bool:
    """Whether this is a usable W3C traceparent (https://www.w3.org/TR/trace-context/)."""
    return _TRACEPARENT.fullmatch(traceparent or "") is not None


def trace_id(traceparent: str) -> str:
    """The 32 hex digits that all spans of one trace share."""
    return traceparent[3:35]


def child(parent: str | None) -> str:
    """A traceparent for work that `parent` led to; a new trace when there is none."""
    digits = os.urandom(24).hex()
    trace_ = trace_id(parent) if parent and is_valid_traceparent(parent) else digits[16:]
    return f"00-{trace_}-{digits[:16]}-01"


class _LogContext:
    """While the block runs, log lines say which trace led to them, and which tenant they are about; yields `here`."""

    __slots__ = ("_here", "_tenant", "_tokens")

    def __init__(self, here: str, tenant: str | None = None) -> None:
        self._here = here
        self._tenant = tenant

    def __enter__(self) -> str:
        tenant = tenant_var.get() if self._tenant is None else self._tenant
        self._tokens = trace_var.set(trace_id(self._here)), tenant_var.set(tenant)
        return self._here

    def __exit__(self, *_: object) -> None:
        trace, tenant = self._tokens
        trace_var.reset(trace)
        tenant_var.reset(tenant)


def log_context(tenant: str, traceparent: str) -> AbstractContextManager[str]:
    """Log lines of this block say that they are about this tenant, and which trace led to them."""
    return _LogContext(traceparent, tenant)


def span(name: str, parent: str | None, kind: SpanKind = SpanKind.INTERNAL) -> AbstractContextManager[str]:
    """A span below `parent`; yields its traceparent. Without an OTLP endpoint only ids are made, which costs little."""
    return _exported(name, parent, kind) if _exports else _LogContext(child(parent))


@contextmanager
def _exported(name: str, parent: str | None, kind: SpanKind) -> Iterator[str]:
    context: Context | None = _propagator.extract({"traceparent": parent}) if parent else None
    attributes = {"paybill.tenant": tenant_var.get()} if tenant_var.get() else None
    with trace.get_tracer("paybill").start_as_current_span(name, context=context, kind=kind, attributes=attributes):
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        with _LogContext(carrier.get("traceparent") or child(parent)) as here:
            yield here


def request_span(method: str, path: str, given: str | None) -> AbstractContextManager[str]:
    """The span of an HTTP request, which FastAPI may have made, for an OTLP endpoint; yields its traceparent."""
    carrier: dict[str, str] = {}
    if _exports:
        _propagator.inject(carrier)
    made = carrier.get("traceparent")
    return _LogContext(made) if made else span(f"{method} {path}", given, SpanKind.SERVER)


_encode = json.JSONEncoder(ensure_ascii=False).encode
"""Made once: `json.dumps` would make one for each line."""


class _JsonLines(logging.Formatter):
    """One JSON object a line, with the trace and the tenant that the line belongs to."""

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
    """Log JSON lines to stderr; send traces and metrics when an OTLP endpoint is set (OTEL_EXPORTER_OTLP_ENDPOINT)."""
    global _exports  # noqa: PLW0603  # set once, while starting; read on the hot path
    # Nothing that our lines say, and a fifth of what a line costs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("uvicorn", "httpx", "httpcore", "nats", "stripe"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It logs, with a stack, whatever a handler raises; the reader gets that too, and says what it means.
    logging.getLogger("faststream").setLevel(logging.CRITICAL)
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        # The exporters cost 4 MB and 0.3 s, in every service, and most laptops have no endpoint.
        _exports = import_module("paybill_runtime.telemetry.otlp").export(service)


def flush() -> None:
    """Send what is still buffered, before the process ends; an endpoint that does not answer is not waited for long."""
    endings = [Thread(target=shutdown, daemon=True) for shutdown in _exports]
    for ending in endings:
        ending.start()
    deadline = time.monotonic() + FLUSH_S
    for ending in endings:
        ending.join(max(0.0, deadline - time.monotonic()))
