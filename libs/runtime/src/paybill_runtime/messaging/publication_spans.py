"""Spans of published facts: their wait in the outbox and their publication, linked to the begin of the journey.

They are made after the publication, and only with an OTLP endpoint: without one a fact costs nothing more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from opentelemetry.metrics import Histogram
from opentelemetry.trace import SpanKind

from paybill_runtime.database.pool import Database
from paybill_runtime.decisions import outbox
from paybill_runtime.decisions.outbox import FirstFact, UnpublishedFact
from paybill_runtime.telemetry import TENANT, Attributes, TraceLink, is_sampled, meter, past_span, trace_id


@dataclass(frozen=True, slots=True)
class FactDuration:
    """A histogram of the time from the first fact of an aggregate to its first fact of a type.

    The aggregate is that of the tenant. buckets: seconds.
    """

    metric: str
    description: str
    type: str
    buckets: Sequence[float]
    histogram: Histogram = field(init=False)

    def __post_init__(self) -> None:
        """Creates the histogram."""
        histogram = meter.create_histogram(
            self.metric, "s", self.description, explicit_bucket_boundaries_advisory=self.buckets
        )
        object.__setattr__(self, "histogram", histogram)


class PublicationSpans:
    """Exports the spans of published facts, and the durations that they end.

    A fact in another trace than the first fact of its tenant is linked to that: a payment, a timer or an operator
    continues the journey that a sign-up began, and arrives with a trace of its own.
    aggregate_of: returns the aggregate of a tenant that has its first fact; None when the service has none.
    """

    def __init__(
        self, database: Database, durations: Sequence[FactDuration], aggregate_of: Callable[[str], str | None]
    ) -> None:
        self._database = database
        self._aggregate_of = aggregate_of
        self._durations = {duration.type: duration for duration in durations}

    async def export(self, facts: Sequence[UnpublishedFact], began: int, ended: int) -> None:
        """Exports them. began, ended: of the publication, in nanoseconds since 1970."""
        sampled = {fact.position for fact in facts if is_sampled(fact.headers["traceparent"])}
        needed = {
            fact.position: self._begin_of(fact)
            for fact in facts
            if fact.position in sampled or fact.headers["ce-type"] in self._durations
        }
        if not needed:
            return
        async with self._database.direct() as connection:
            first = await outbox.first_facts(connection, sorted(set(needed.values())))
        for fact in facts:
            if fact.position in sampled:
                _export(fact, first.get(needed[fact.position]), began, ended)
        await self._record_durations(facts, first)

    def _begin_of(self, fact: UnpublishedFact) -> str:
        """Returns the aggregate whose first fact began the journey of a fact."""
        tenant = fact.headers.get("pb-tenant")
        return (tenant and self._aggregate_of(tenant)) or fact.headers["pb-aggregate"]

    async def _record_durations(self, facts: Sequence[UnpublishedFact], first: dict[str, FirstFact]) -> None:
        for fact in facts:
            duration, begin = self._durations.get(fact.headers["ce-type"]), first.get(fact.headers["pb-aggregate"])
            if duration is None or begin is None:
                continue
            async with self._database.direct() as connection:
                if await outbox.is_first_of_type(connection, fact.position):
                    recorded_at = datetime.fromisoformat(fact.headers["ce-time"])
                    duration.histogram.record((recorded_at - begin.recorded_at).total_seconds())


def messaging_attributes(type_: str, operation: str, subject: str, id_: str) -> dict[str, str]:
    """Returns the attributes of a message, by the semantic conventions."""
    return {
        "messaging.system": "nats",
        "messaging.operation.type": type_,
        "messaging.operation.name": operation,
        "messaging.destination.name": subject,
        "messaging.message.id": id_,
    }


def _export(fact: UnpublishedFact, first: FirstFact | None, began: int, ended: int) -> None:
    headers = fact.headers
    traceparent, type_ = headers["traceparent"], headers["ce-type"]
    attributes: dict[str, str] = {"paybill.correlation": headers["pb-correlation"]}
    if "pb-tenant" in headers:
        attributes[TENANT] = headers["pb-tenant"]
    recorded = int(datetime.fromisoformat(headers["ce-time"]).timestamp() * 1e9)
    waited: Attributes = attributes | {"messaging.message.id": headers["ce-id"]}
    past_span("outbox wait", traceparent, min(recorded, began), began, SpanKind.INTERNAL, waited)
    sent: Attributes = attributes | messaging_attributes("send", "publish", fact.subject, headers["ce-id"])
    links = []
    if first is not None and trace_id(first.traceparent) != trace_id(traceparent):
        links = [TraceLink(first.traceparent, first.correlation)]
    past_span(f"publish {type_}", traceparent, began, ended, SpanKind.PRODUCER, sent, links)
