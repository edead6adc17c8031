"""Ids and traces: UUIDs of version 7, traceparents (W3C Trace Context), and OpenTelemetry if it is installed."""

import os
import re
import time
from typing import Any

try:
    from faststream.nats.opentelemetry import NatsTelemetryMiddleware
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:  # the extra `tracing` is not installed
    _INSTALLED = False
else:
    _INSTALLED = True

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def new_id() -> str:
    """Returns a UUID version 7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, so new ids sort last."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def child(parent: str | None) -> str:
    """Returns a traceparent for a span below `parent`; a new trace without a valid parent."""
    digits = os.urandom(24).hex()
    trace = parent[3:35] if parent and _TRACEPARENT.fullmatch(parent) else digits[16:]
    return f"00-{trace}-{digits[:16]}-01"


def current_traceparent() -> str | None:
    """Returns the traceparent of the current OpenTelemetry span, if there is one."""
    if not _INSTALLED:
        return None
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def telemetry_middlewares() -> tuple[Any, ...]:
    """Returns FastStream's middleware that opens a span in the publisher's trace around each handler."""
    return (NatsTelemetryMiddleware(),) if _INSTALLED else ()
