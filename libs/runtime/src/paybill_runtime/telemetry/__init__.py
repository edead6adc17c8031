"""Traces, metrics and JSON log lines.

Guarantee: one trace id connects a request with every fact and log line that it leads to, across services. Names of
spans and attributes of metrics have few values: ids are attributes of spans only.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from importlib import import_module, metadata
from threading import Thread
from typing import NamedTuple, TypeAlias

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, StatusCode
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
Attributes: TypeAlias = Mapping[str, str | int | float | Sequence[str]]
OUTCOME, ERROR_TYPE, TENANT, PROVIDER = "paybill.outcome", "error.type", "paybill.tenant", "paybill.provider"
"""Names of attributes; that of errors is of the semantic conventions."""
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0)
"""Seconds: those of the semantic conventions, and two more."""


class TraceLink(NamedTuple):
    """A span that belongs to the same journey, in another trace. correlation: the first cause of its facts."""

    traceparent: str
    correlation: str


def is_valid_traceparent(traceparent: str | None) -> bool:
    """Returns whether this is a valid W3C traceparent (https://www.w3.org/TR/trace-context/)."""
    return _TRACEPARENT.fullmatch(traceparent or "") is not None


def trace_id(traceparent: str) -> str:
    """Returns the 32 hex digits that all spans of one trace share."""
    return traceparent[3:35]


def is_sampled(traceparent: str) -> bool:
    """Returns whether the spans of the trace are recorded, which its first span decided."""
    return int(traceparent[-1], 16) % 2 == 1


def exporting() -> bool:
    """Returns whether there is an OTLP endpoint. Without one, what costs more than a counter is not measured."""
    return bool(_exports)


def child(parent: str | None) -> str:
    """Returns a traceparent for a span below `parent`; a new trace without a valid parent."""
    digits = os.urandom(24).hex()
    if parent and is_valid_traceparent(parent):
        return f"00-{trace_id(parent)}-{digits[:16]}-{parent[53:]}"
    return f"00-{digits[16:]}-{digits[:16]}-01"


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


def span(
    name: str,
    parent: str | None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Callable[[], Attributes] = dict,
    links: Sequence[TraceLink] = (),
    expected: tuple[type[Exception], ...] = (),
) -> AbstractContextManager[str]:
    """Opens a span below `parent`; yields its traceparent. Without an OTLP endpoint only ids are created.

    name: contains no id. attributes: called only for a recorded span. expected: errors that are no failures.
    """
    if _exports and not (parent and is_valid_traceparent(parent) and not is_sampled(parent)):
        return _exported(name, parent, kind, attributes, links, expected)
    return _LogContext(child(parent))


@contextmanager
def _exported(
    name: str,
    parent: str | None,
    kind: SpanKind,
    attributes: Callable[[], Attributes],
    links: Sequence[TraceLink],
    expected: tuple[type[Exception], ...],
) -> Iterator[str]:
    with trace.get_tracer("paybill").start_as_current_span(
        name,
        context=_context(parent),
        kind=kind,
        attributes=_tenant() | dict(attributes()),
        links=_links(links),
        record_exception=False,  # a message may contain personal data; the log line of the error has the trace
        set_status_on_exception=False,
    ):
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        with _LogContext(carrier.get("traceparent") or child(parent)) as current:
            try:
                yield current
            except Exception as error:
                if not isinstance(error, expected):
                    record_failure(type(error).__qualname__)
                raise


def past_span(
    name: str,
    parent: str,
    began: int,
    ended: int,
    kind: SpanKind,
    attributes: Attributes,
    links: Sequence[TraceLink] = (),
) -> None:
    """Exports a span that has ended. began, ended: nanoseconds since 1970."""
    trace.get_tracer("paybill").start_span(
        name, context=_context(parent), kind=kind, attributes=attributes, links=_links(links), start_time=began
    ).end(ended)


def annotate(attributes: Attributes, links: Sequence[TraceLink] = ()) -> None:
    """Adds attributes and links to the current span."""
    if _exports:
        current = trace.get_current_span()
        current.set_attributes(attributes)
        for link in _links(links):
            current.add_link(link.context, link.attributes)


def record_failure(error_type: str) -> None:
    """Gives the current span the status of a failure. The error's message is in the log only."""
    if _exports:
        current = trace.get_current_span()
        current.set_attributes({ERROR_TYPE: error_type, OUTCOME: "failed"})
        current.set_status(StatusCode.ERROR)


def _tenant() -> dict[str, str | int | float | Sequence[str]]:
    return {TENANT: tenant_var.get()} if tenant_var.get() else {}


def _context(parent: str | None) -> Context | None:
    return _propagator.extract({"traceparent": parent}) if parent else None


def _links(links: Sequence[TraceLink]) -> list[Link]:
    found = [(trace.get_current_span(_context(link.traceparent)).get_span_context(), link) for link in links]
    return [Link(context, {"paybill.correlation": link.correlation}) for context, link in found if context.is_valid]


def request_span(method: str, route: str, parent: str | None) -> AbstractContextManager[str]:
    """Opens the span of an HTTP request, unless FastAPI opened it; yields its traceparent. route: of a fast route."""
    carrier: dict[str, str] = {}
    if _exports:
        _propagator.inject(carrier)
    current = carrier.get("traceparent")
    if current:
        return _LogContext(current)
    return span(f"{method} {route}".strip(), parent, SpanKind.SERVER)


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
    """Logs JSON lines to stderr; exports traces, metrics and logs if OTEL_EXPORTER_OTLP_ENDPOINT is set."""
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
        exporter = import_module("paybill_runtime.telemetry.otlp")
        _exports = exporter.export(service, metadata.version(f"paybill-{service}"))


def flush() -> None:
    """Exports buffered spans, metrics and logs before the process ends, within FLUSH_S."""
    threads = [Thread(target=shutdown, daemon=True) for shutdown in _exports]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + FLUSH_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
