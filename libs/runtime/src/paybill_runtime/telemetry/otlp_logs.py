"""Handler that exports log records by OTLP, with the trace and the tenant of the JSON lines."""

import logging
import re
import traceback

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context, get_current
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from typing_extensions import override

from paybill_runtime.telemetry import TENANT, tenant_var, trace_var

_TRACE_ID = re.compile("[0-9a-f]{32}")
_EXPORTERS = ("opentelemetry", "urllib3", "requests")
"""Loggers of the export itself, whose records would make more records."""
_SEVERITIES = (
    (logging.CRITICAL, SeverityNumber.FATAL, "FATAL"),
    (logging.ERROR, SeverityNumber.ERROR, "ERROR"),
    (logging.WARNING, SeverityNumber.WARN, "WARN"),
    (logging.INFO, SeverityNumber.INFO, "INFO"),
    (logging.NOTSET, SeverityNumber.DEBUG, "DEBUG"),
)


class OtlpHandler(logging.Handler):
    """Exports each record of the log. The handler of the SDK is deprecated, and knows neither trace nor tenant."""

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self._provider = provider

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._export(record)
        except Exception:  # noqa: BLE001  # as in every handler: a record does not break the code that logs
            self.handleError(record)

    def _export(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in _EXPORTERS:
            return
        attributes = {TENANT: tenant_var.get()} if tenant_var.get() else {}
        if record.exc_info and record.exc_info[0] is not None:
            attributes["exception.type"] = record.exc_info[0].__qualname__
            attributes["exception.stacktrace"] = "".join(traceback.format_exception(*record.exc_info))
        _, number, text = next(one for one in _SEVERITIES if record.levelno >= one[0])
        self._provider.get_logger(record.name).emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                context=_context(),
                severity_number=number,
                severity_text=text,
                body=record.getMessage(),
                attributes=attributes,
            )
        )


def _context() -> Context:
    """Returns the context of the current span; of the current trace alone where no span is open."""
    current, trace_ = get_current(), trace_var.get()
    if (
        not _TRACE_ID.fullmatch(trace_)
        or int(trace_, 16) == trace.get_current_span(current).get_span_context().trace_id
    ):
        return current
    of_trace = SpanContext(int(trace_, 16), 0, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return trace.set_span_in_context(NonRecordingSpan(of_trace), current)
