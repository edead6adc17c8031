"""OTLP endpoint that keeps what it receives: spans, metrics and log records."""

import gzip
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

REQUESTS = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


@dataclass(frozen=True)
class Span:
    """A received span. Attributes are text."""

    name: str
    trace: str
    id: str
    parent: str
    linked: frozenset[str]
    failed: bool
    attributes: Mapping[str, str]


@dataclass
class Telemetry:
    """Content that a receiver got. bodies: each request as text, for searches."""

    url: str
    bodies: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, set[tuple[tuple[str, str], ...]]] = field(default_factory=lambda: defaultdict(set))
    logs: list[tuple[str, str]] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)

    def add(self, path: str, body: bytes) -> None:
        """Keeps the content of one request."""
        request: Message = REQUESTS[path].FromString(body)
        self.bodies.append(str(request))
        match request:
            case ExportTraceServiceRequest():
                for resource in request.resource_spans:
                    self.resources.append(_texts(resource.resource.attributes))
                    self.spans += [_span(span) for scope in resource.scope_spans for span in scope.spans]
            case ExportMetricsServiceRequest():
                for resource in request.resource_metrics:
                    for scope in resource.scope_metrics:
                        for metric in scope.metrics:
                            points = getattr(metric, metric.WhichOneof("data")).data_points
                            self.metrics[metric.name] |= {
                                tuple(sorted(_texts(point.attributes).items())) for point in points
                            }
            case ExportLogsServiceRequest():
                for resource in request.resource_logs:
                    for scope in resource.scope_logs:
                        self.logs += [(log.trace_id.hex(), log.body.string_value) for log in scope.log_records]


@contextmanager
def receiving() -> Iterator[Telemetry]:
    """Runs an OTLP endpoint until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            received.add(self.path, body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Telemetry(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()


def _span(span) -> Span:
    return Span(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        frozenset(link.trace_id.hex() for link in span.links),
        span.status.code == span.status.STATUS_CODE_ERROR,
        _texts(span.attributes),
    )


def _texts(attributes) -> dict[str, str]:
    return {one.key: str(getattr(one.value, one.value.WhichOneof("value") or "string_value")) for one in attributes}
