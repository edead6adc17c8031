"""Wire format of events: CloudEvents 1.0 in NATS headers (binary mode), with consistency checks."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

from paybill_contracts.errors import DomainError
from paybill_contracts.event import Event, decode, partition_of

MAX_PAYLOAD_BYTES = 512 * 1024
"""With headers below the NATS server's default limit of 1 MiB."""
MAX_CAUSE = 255
"""Characters in the name of a cause or of a correlation."""

EVENTS_ROOT = "paybill.events"
INTAKE_ROOT = "paybill.intake"

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TRACE = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_REVISION = re.compile(r"[1-9][0-9]{0,14}")
_ACTOR = re.compile(r"(user|service|agent|webhook|operator):[A-Za-z0-9_.@-]{1,100}")
_SUBJECT = re.compile(r"paybill\.events\.(\d{1,2})\.([a-z-]+\.[a-z_]+)\.v([1-9]\d{0,3})")
_INTAKE = re.compile(r"paybill\.intake\.([a-z][a-z0-9_-]{0,62})\.([a-z-]+\.[a-z_]+)\.v([1-9]\d{0,3})")


class MalformedFactError(DomainError):
    """Headers, subject and payload of a message contradict each other: it was not written by this library."""

    code = "malformed_fact"


class ActorKind(StrEnum):
    """Kind of the actor that caused an event."""

    USER = "user"
    SERVICE = "service"
    AGENT = "agent"
    WEBHOOK = "webhook"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Origin:
    """Causation, correlation, actor and trace of an event.

    cause: the event or request that caused it; correlation: the first cause; actor: `<kind>:<id>`;
    traceparent: W3C Trace Context (https://www.w3.org/TR/trace-context/).
    """

    cause: str
    correlation: str
    actor: str
    traceparent: str


@dataclass(frozen=True, slots=True)
class Fact:
    """An event with its envelope. `sequence` is its number in the stream, 0 before it is stored."""

    event: Event
    id: str
    time: datetime
    revision: int
    origin: Origin
    sequence: int = 0

    @property
    def aggregate(self) -> str:
        """`<kind>/<id>` of the aggregate."""
        return self.event.aggregate_id


def subject_of(event: Event) -> str:
    """Returns the subject of the event: `paybill.events.<partition>.<context>.<event>.v<n>`."""
    return f"{EVENTS_ROOT}.{partition_of(event.tenant)}.{event.TYPE}.v{event.VERSION}"


def intake_subject(publisher: str, event: Event) -> str:
    """Returns the subject at which an internal service submits an event to the owner of its type."""
    return f"{INTAKE_ROOT}.{publisher}.{event.TYPE}.v{event.VERSION}"


def headers_of(fact: Fact) -> dict[str, str]:
    """Returns the NATS headers of an event. Raises MalformedFactError for an actor that `read_fact` would refuse."""
    event, origin = fact.event, fact.origin
    headers = _attributes(event, fact.id, event.OWNER, fact.time, origin.traceparent) | {
        "pb-aggregate": fact.aggregate,
        "pb-revision": str(fact.revision),
        "pb-cause": origin.cause,
        "pb-correlation": origin.correlation,
        "pb-actor": _actor(origin.actor),
    }
    if event.tenant is not None:
        headers["pb-tenant"] = event.tenant
    return headers


def _attributes(event: Event, id_: str, source: str, time: datetime, traceparent: str) -> dict[str, str]:
    return {
        "Nats-Msg-Id": id_,
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": id_,
        "ce-type": event.TYPE,
        "ce-source": f"paybill/{source}",
        "ce-time": time_text(time),
        "ce-subject": event.aggregate_id,
        "ce-dataschema": f"paybill:{event.TYPE}:v{event.VERSION}",
        "traceparent": traceparent,
    }


@lru_cache(maxsize=256)
def _actor(text: str) -> str:
    if _ACTOR.fullmatch(text) is None:
        raise MalformedFactError(
            f"{text[:100]!r} is no actor; write user:, service:, agent:, webhook: or operator: and an id"
        )
    return text


@lru_cache(maxsize=16)
def time_text(time: datetime) -> str:
    """Returns the form of `ce-time`. Events of one transaction share it, so the cache saves most calls."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def read_fact(subject: str, headers: Mapping[str, str] | None, payload: bytes, sequence: int = 0) -> Fact:
    """Returns the event of a message, after a check that its parts agree.

    Raises MalformedFactError, UnknownEventError or InvalidEventError.
    """
    match = _SUBJECT.fullmatch(subject)
    if match is None:
        raise MalformedFactError(f"{subject[:200]} is no subject of an event")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MalformedFactError(f"the payload has {len(payload)} bytes; {MAX_PAYLOAD_BYTES} are allowed")
    head = headers or {}
    type_, version = match[2], int(match[3])
    event = decode(type_, version, payload)
    fact = Fact(
        event=event,
        id=_matching(head, "ce-id", _ID),
        time=_time(head),
        revision=_revision(head),
        origin=Origin(
            cause=_bounded(head, "pb-cause"),
            correlation=_bounded(head, "pb-correlation"),
            actor=_matching(head, "pb-actor", _ACTOR),
            traceparent=_matching(head, "traceparent", _TRACE),
        ),
        sequence=sequence,
    )
    _require_equal("ce-type", head.get("ce-type"), type_)
    _require_equal("pb-tenant", head.get("pb-tenant"), event.tenant)
    _require_equal("pb-aggregate", head.get("pb-aggregate"), fact.aggregate)
    _require_equal("partition", match[1], str(partition_of(event.tenant)))
    return fact


@dataclass(frozen=True, slots=True)
class IntakeEvent:
    """A message of INTAKE: an event that a publisher submits. The owner of the type accepts or refuses it."""

    event: Event
    id: str
    publisher: str
    time: datetime
    traceparent: str
    sequence: int = 0


def intake_headers(intake_event: IntakeEvent) -> dict[str, str]:
    """Returns the NATS headers of a submitted event."""
    return _attributes(
        intake_event.event, intake_event.id, intake_event.publisher, intake_event.time, intake_event.traceparent
    )


def read_intake_event(
    subject: str, headers: Mapping[str, str] | None, payload: bytes, sequence: int = 0
) -> IntakeEvent:
    """Returns the event of a message of INTAKE. Raises as `read_fact` does."""
    match = _INTAKE.fullmatch(subject)
    if match is None:
        raise MalformedFactError(f"{subject[:200]} is no subject of the intake")
    head = headers or {}
    if "ce-source" in head:
        _require_equal("ce-source", head["ce-source"], f"paybill/{match[1]}", "the subject")
    return IntakeEvent(
        event=decode(match[2], int(match[3]), payload),
        id=_matching(head, "ce-id", _ID),
        publisher=match[1],
        time=_time(head),
        traceparent=_matching(head, "traceparent", _TRACE),
        sequence=sequence,
    )


def _matching(headers: Mapping[str, str], name: str, pattern: re.Pattern[str]) -> str:
    value = headers.get(name, "")
    if pattern.fullmatch(value) is None:
        raise MalformedFactError(f"the header {name} is missing or malformed")
    return value


def _bounded(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if not 0 < len(value) <= MAX_CAUSE:
        raise MalformedFactError(f"the header {name} is missing or longer than {MAX_CAUSE}")
    return value


def _time(headers: Mapping[str, str]) -> datetime:
    try:
        time = datetime.fromisoformat(headers.get("ce-time", ""))
        if time.tzinfo is None:
            raise MalformedFactError("the header ce-time has no offset")
        return time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise MalformedFactError("the header ce-time is missing or no RFC 3339 time") from error


def _revision(headers: Mapping[str, str]) -> int:
    text = headers.get("pb-revision", "")
    if _REVISION.fullmatch(text) is None:
        raise MalformedFactError("the header pb-revision is missing or no positive number")
    return int(text)


def _require_equal(name: str, actual: str | None, expected: str | None, other: str = "the payload") -> None:
    if actual != expected:
        raise MalformedFactError(f"{name} is {actual!r:.100}, but {other} has {expected!r:.100}")
