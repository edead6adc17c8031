"""Wire format of events: written messages are read back, and inconsistent ones are refused."""

import string
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paybill_contracts.envelope import (
    MAX_PAYLOAD_BYTES,
    Fact,
    MalformedFactError,
    Origin,
    headers_of,
    intake_subject,
    read_fact,
    read_intake_event,
    subject_of,
)
from paybill_contracts.event import Event, InvalidEventError, UnknownEventError, encode, partition_of
from paybill_contracts.tenant import HoldOrigin, OfferingNoted, TenantReactivated
from paybill_contracts.usage import Usage

TENANT = "ten_0123456789abcdef0123456789abcdef"
ID = "0190a5b0-0000-7000-8000-000000000001"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)

FACT = Fact(
    event=TenantReactivated(tenant_id=TENANT, lifted=HoldOrigin.BILLING),
    id=ID,
    time=NOON,
    revision=7,
    origin=Origin(cause=ID, correlation="req-1", actor="operator:op1", traceparent=TRACE),
    sequence=42,
)
SUBJECT, HEADERS, PAYLOAD = subject_of(FACT.event), headers_of(FACT), encode(FACT.event)
USAGE = Usage(tenant_id=TENANT, meter="calls", quantity=3, occurred_at=NOON)

hexes = st.text("0123456789abcdef", min_size=32, max_size=32)
names = st.text(string.ascii_letters + string.digits + "_.@-", min_size=1, max_size=100)
causes = st.text(min_size=1, max_size=255)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(datetime(1971, 1, 2), datetime(9000, 1, 1), timezones=zones)  # noqa: DTZ001  # aware by `timezones`


@given(
    tenant=hexes.map("ten_".__add__),
    cause=causes,
    correlation=causes,
    actor=st.tuples(st.sampled_from(["user", "service", "agent", "webhook", "operator"]), names).map(":".join),
    revision=st.integers(1, 10**15 - 1),
    sequence=st.integers(0, 2**63),
    time=times,
    trace=hexes,
)
def test_an_event_is_read_back_unchanged(
    tenant: str, cause: str, correlation: str, actor: str, revision: int, sequence: int, time: datetime, trace: str
) -> None:
    origin = Origin(cause, correlation, actor, f"00-{trace}-{trace[:16]}-01")
    fact = Fact(TenantReactivated(tenant_id=tenant, lifted=HoldOrigin.OPERATOR), ID, time, revision, origin, sequence)

    read = read_fact(subject_of(fact.event), headers_of(fact), encode(fact.event), sequence)

    assert read == fact
    assert read.time.utcoffset() == timedelta(0)


def test_an_event_without_a_tenant_has_no_tenant_header_and_partition_0() -> None:
    event = OfferingNoted(offering="plans", keys=("pro",), source_hash="0" * 64)
    fact = Fact(event, ID, NOON, 1, FACT.origin)

    assert subject_of(event) == "paybill.events.0.tenant.offering_noted.v1"
    assert "pb-tenant" not in headers_of(fact)
    assert read_fact(subject_of(event), headers_of(fact), encode(event)) == fact


def test_the_headers_are_those_of_cloudevents_in_binary_mode() -> None:
    assert {
        "Nats-Msg-Id": ID,
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": ID,
        "ce-type": "tenant.tenant_reactivated",
        "ce-source": "paybill/tenant",
        "ce-time": "2026-11-22T12:00:00Z",
        "ce-subject": f"tenant/{TENANT}",
        "ce-dataschema": "paybill:tenant.tenant_reactivated:v1",
        "traceparent": TRACE,
        "pb-tenant": TENANT,
        "pb-aggregate": f"tenant/{TENANT}",
        "pb-revision": "7",
        "pb-cause": ID,
        "pb-correlation": "req-1",
        "pb-actor": "operator:op1",
    } == HEADERS


@pytest.mark.parametrize("actor", ["", "nobody", "cron:nightly", "operator:", "operator:a b", "operator:" + "x" * 101])
def test_an_invalid_actor_is_not_written(actor: str) -> None:
    with pytest.raises(MalformedFactError, match="actor"):
        headers_of(replace(FACT, origin=replace(FACT.origin, actor=actor)))


def test_unknown_fields_are_ignored() -> None:
    later = PAYLOAD[:-1] + b',"zeal":"high"}'

    assert read_fact(SUBJECT, HEADERS, later, 42) == FACT


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "paybill.events",
        "paybill.events.x.tenant.tenant_reactivated.v1",
        "paybill.events.123.tenant.tenant_reactivated.v1",
        "paybill.events.1.tenant.tenant_reactivated",
        "paybill.events.1.tenant.tenant_reactivated.v0",
        "paybill.events.1.tenant.tenant_reactivated.v01",
        "paybill.events.1.tenant.tenant_reactivated.v99999",
        "paybill.events.1.tenant.tenant_reactivated.v1.more",
        "paybill.intake.metering.usage.recorded.v1",
        f"other.{SUBJECT}",
        f"{SUBJECT}\n",
        "x" * 10_000,
    ],
)
def test_a_malformed_subject_is_refused_and_truncated_in_the_message(subject: str) -> None:
    with pytest.raises(MalformedFactError) as error:
        read_fact(subject, HEADERS, PAYLOAD)

    assert len(str(error.value)) < 300


REQUIRED = (
    "ce-id",
    "ce-time",
    "ce-type",
    "pb-revision",
    "pb-cause",
    "pb-correlation",
    "pb-actor",
    "pb-aggregate",
    "pb-tenant",
    "traceparent",
)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_header_is_refused_by_name(name: str) -> None:
    headers = {key: value for key, value in HEADERS.items() if key != name}

    with pytest.raises(MalformedFactError, match=name):
        read_fact(SUBJECT, headers, PAYLOAD)


def test_a_message_without_headers_is_refused() -> None:
    with pytest.raises(MalformedFactError):
        read_fact(SUBJECT, None, PAYLOAD)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce-id", ""),
        ("ce-id", ID.upper().replace("0190A5B0", "0190A5BZ")),
        ("ce-id", "0190A5B0-0000-7000-8000-000000000001"),
        ("ce-id", f"{ID}\n"),
        ("ce-id", ID.replace("-7000-", "-9000-")),
        ("ce-time", "yesterday"),
        ("ce-time", "2026-11-22T12:00:00"),
        ("ce-time", "2026-11-22"),
        ("ce-time", "2026-13-22T12:00:00Z"),
        ("ce-time", "0001-01-01T00:00:00+14:00"),
        ("ce-time", "1" * 5000),
        ("pb-revision", "0"),
        ("pb-revision", "-1"),
        ("pb-revision", "1.5"),
        ("pb-revision", " 1"),
        ("pb-revision", "²"),
        ("pb-revision", "٣"),
        ("pb-revision", "9" * 16),
        ("pb-cause", ""),
        ("pb-cause", "x" * 256),
        ("pb-correlation", "x" * 256),
        ("pb-actor", "root"),
        ("pb-actor", "service:"),
        ("pb-actor", "daemon:tenant"),
        ("pb-actor", "service:a b"),
        ("pb-actor", "service:" + "x" * 101),
        ("traceparent", "garbage"),
        ("traceparent", TRACE.replace("00-", "ff-", 1)),
        ("traceparent", TRACE.upper()),
        ("traceparent", TRACE + "-more"),
        ("ce-type", "tenant.tenant_activated"),
        ("pb-tenant", "ten_ffffffffffffffffffffffffffffffff"),
        ("pb-aggregate", "tenant/ten_ffffffffffffffffffffffffffffffff"),
        ("pb-aggregate", f"account/{TENANT}"),
    ],
)
def test_a_malformed_or_contradictory_header_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(MalformedFactError, match=name) as error:
        read_fact(SUBJECT, HEADERS | {name: value}, PAYLOAD)

    assert len(str(error.value)) < 400


def test_a_tenant_header_on_an_event_without_a_tenant_is_refused() -> None:
    event = OfferingNoted(offering="plans", keys=(), source_hash="0" * 64)
    headers = headers_of(Fact(event, ID, NOON, 1, FACT.origin)) | {"pb-tenant": TENANT}

    with pytest.raises(MalformedFactError, match="pb-tenant"):
        read_fact(subject_of(event), headers, encode(event))


@pytest.mark.parametrize("partition", [number for number in range(16) if number != partition_of(TENANT)])
def test_an_event_in_another_tenants_partition_is_refused(partition: int) -> None:
    parts = SUBJECT.split(".")
    other_subject = ".".join([*parts[:2], str(partition), *parts[3:]])

    with pytest.raises(MalformedFactError, match="partition"):
        read_fact(other_subject, HEADERS, PAYLOAD)


def test_a_partition_with_a_leading_zero_is_refused() -> None:
    event = OfferingNoted(offering="plans", keys=(), source_hash="0" * 64)
    headers = headers_of(Fact(event, ID, NOON, 1, FACT.origin))

    with pytest.raises(MalformedFactError, match="partition"):
        read_fact(subject_of(event).replace(".0.", ".00."), headers, encode(event))


def test_a_payload_over_the_size_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(MalformedFactError, match="are allowed"):
        read_fact(SUBJECT, HEADERS, b" " * (MAX_PAYLOAD_BYTES + 1))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"tenant_id":"ten_1","lifted":"billing"}',
        b'{"tenant_id":1,"lifted":"billing"}',
        PAYLOAD.replace(b"billing", b"nobody"),
        PAYLOAD.decode().encode("utf-16"),
        b"\xff\xfe",
        b"[" * 10_000,
    ],
)
def test_a_payload_of_another_schema_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidEventError) as error:
        read_fact(SUBJECT, HEADERS, payload)

    assert len(str(error.value)) < 2000


def test_errors_in_a_payload_are_reported_without_its_values() -> None:
    with pytest.raises(InvalidEventError) as error:
        read_fact(SUBJECT, HEADERS, b'{"tenant_id":"alice@example.org","lifted":"billing"}')

    assert "tenant_id" in str(error.value)
    assert "alice" not in str(error.value)


@pytest.mark.parametrize("subject", [SUBJECT.replace("reactivated", "painted"), SUBJECT.replace(".v1", ".v2")])
def test_an_unregistered_type_or_version_is_refused(subject: str) -> None:
    with pytest.raises(UnknownEventError, match="is not known here"):
        read_fact(subject, HEADERS, PAYLOAD)


def read_intake(
    subject: str = intake_subject("metering", USAGE), payload: bytes = encode(USAGE), **edits: str | None
) -> Any:
    headers = {"ce-id": ID, "ce-time": "2026-11-22T12:00:00Z", "traceparent": TRACE}
    headers |= {name.replace("_", "-"): value for name, value in edits.items() if value is not None}
    kept = {name: value for name, value in headers.items() if edits.get(name.replace("-", "_"), "") is not None}
    return read_intake_event(subject, kept, payload, 5)


def test_an_intake_event_has_its_publisher_and_time() -> None:
    read = read_intake()

    assert (read.event, read.id, read.publisher, read.time, read.traceparent, read.sequence) == (
        USAGE,
        ID,
        "metering",
        NOON,
        TRACE,
        5,
    )


@pytest.mark.parametrize(
    "edit",
    [
        {"ce_id": None},
        {"ce_id": "1"},
        {"ce_time": None},
        {"traceparent": None},
        {"traceparent": "0"},
        {"ce_source": "paybill/other"},
    ],
)
def test_an_intake_event_with_malformed_headers_is_refused(edit: dict[str, str | None]) -> None:
    with pytest.raises(MalformedFactError):
        read_intake(**edit)


@pytest.mark.parametrize(
    "subject",
    [
        SUBJECT,
        "paybill.intake.usage.recorded.v1",
        "paybill.intake.Metering.usage.recorded.v1",
        "paybill.intake.a.b.usage.recorded.v1",
    ],
)
def test_an_intake_event_on_another_subject_is_refused(subject: str) -> None:
    with pytest.raises(MalformedFactError):
        read_intake(subject)


@given(st.dictionaries(st.sampled_from(sorted(HEADERS)), st.text(max_size=50)))
def test_random_headers_are_read_or_refused_with_one_error_type(edits: dict[str, str]) -> None:
    try:
        fact = read_fact(SUBJECT, HEADERS | edits, PAYLOAD)
    except MalformedFactError:
        return

    assert isinstance(fact.event, Event)


@given(st.binary(max_size=200))
def test_random_payloads_are_refused_with_one_error_type(payload: bytes) -> None:
    with pytest.raises(InvalidEventError):
        read_fact(SUBJECT, HEADERS, payload)
