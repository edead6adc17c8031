"""Money, approvals, partitions, upcasters and the bounds of constrained values."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paybill_contracts.approval import Approval, ApprovalMismatchError
from paybill_contracts.event import (
    PARTITIONS,
    Event,
    InvalidEventError,
    UnknownEventError,
    canonical,
    decode,
    digest,
    encode,
    latest_event,
    partition_of,
    upcaster,
)
from paybill_contracts.money import CurrencyMismatchError, Money, is_currency, minor_digits
from paybill_contracts.placement import Isolation, Preset, placement_of
from paybill_contracts.values import Key, SecretRef, Slug, TenantId, Text, Timestamp, Url
from pydantic import TypeAdapter, ValidationError

amounts = st.integers(-(10**14), 10**14)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
HASH, OTHER_HASH = "a" * 64, "b" * 64


@given(amounts, amounts, amounts)
def test_money_adds_exactly_in_any_order(first: int, second: int, third: int) -> None:
    a, b, c = (Money(minor=minor, currency="EUR") for minor in (first, second, third))

    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert (a + b + c).minor == first + second + third


def test_money_of_different_currencies_is_not_added() -> None:
    with pytest.raises(CurrencyMismatchError, match="USD to EUR"):
        Money(minor=1, currency="EUR") + Money(minor=1, currency="USD")


@pytest.mark.parametrize(
    "payload",
    [
        {"minor": 1.0, "currency": "EUR"},
        {"minor": "1", "currency": "EUR"},
        {"minor": True, "currency": "EUR"},
        {"minor": 10**15 + 1, "currency": "EUR"},
        {"minor": 1, "currency": "eur"},
        {"minor": 1, "currency": "EURO"},
        {"minor": 1},
    ],
)
def test_money_has_a_bounded_whole_amount_and_a_currency(payload: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Money.model_validate(payload)


def approval(**edits: Any) -> Approval:
    fields = {
        "subject_hash": HASH,
        "requester": "operator:ada",
        "approver": "operator:bo",
        "approved_at": NOON,
        "expires_at": NOON + timedelta(hours=1),
    }
    return Approval(**{**fields, **edits})


def test_an_approval_is_valid_for_its_subject_until_it_expires() -> None:
    approval().check(HASH, NOON)
    approval().check(HASH, NOON + timedelta(minutes=59))
    approval(approver="operator:ada", other_person=False).check(HASH, NOON)


@pytest.mark.parametrize(
    ("candidate", "subject_hash", "now", "message"),
    [
        (approval(), OTHER_HASH, NOON, "review the new plan"),
        (approval(), HASH, NOON + timedelta(hours=1), "the approval expired"),
        (approval(approver="operator:ada"), HASH, NOON, "requester and approver are the same"),
        (approval(approver="service:deployer"), HASH, NOON, "is a program"),
    ],
    ids=["another hash", "too late", "own request", "program"],
)
def test_an_approval_is_refused_otherwise(candidate: Approval, subject_hash: str, now: datetime, message: str) -> None:
    with pytest.raises(ApprovalMismatchError, match=message):
        candidate.check(subject_hash, now)


@pytest.mark.parametrize(
    ("tenant", "partition"),
    [
        ("ten_00000000000000000000000000000000", 7),
        ("ten_0123456789abcdef0123456789abcdef", 11),
        ("ten_ffffffffffffffffffffffffffffffff", 3),
        ("ten_deadbeefdeadbeefdeadbeefdeadbeef", 14),
        (None, 0),
    ],
)
def test_a_tenants_partition_never_changes(tenant: str | None, partition: int) -> None:
    assert partition_of(tenant) == partition


@given(st.text("0123456789abcdef", min_size=32, max_size=32))
def test_a_partition_is_one_of_sixteen(tenant: str) -> None:
    assert PARTITIONS == 16
    assert 0 <= partition_of(f"ten_{tenant}") < 16


def test_tenants_are_distributed_evenly_over_the_partitions() -> None:
    counts = [0] * PARTITIONS
    for number in range(16_000):
        counts[partition_of(f"ten_{number:032x}")] += 1

    assert min(counts) > 850
    assert max(counts) < 1150


@pytest.mark.parametrize(
    ("kind", "valid", "invalid"),
    [
        (Text, ["a", "é ü", "x" * 500], ["", "x" * 501, "a\nb", "a\x00", "\x7f"]),
        (Key, ["a", "pro-2_b"], ["", "2a", "A", "a" * 64, "a.b", "a\n"]),
        (Slug, ["a", "acme-1", "a" * 40], ["", "-a", "a-", "a_b", "a" * 41, "acme\n", "1a"]),
        (TenantId, ["ten_" + "0" * 32], ["ten_" + "0" * 31, "ten_" + "G" * 32, "0" * 32, "ten_" + "0" * 32 + "\n"]),
        (SecretRef, ["secret://billing/a?v=1"], ["secret://a?v=0", "secret://a", "https://a?v=1", "secret://A?v=1"]),
        (Url, ["https://pay.example/c/1"], ["javascript:alert(1)", "https://a b", "ftp://a", "https://" + "a" * 2001]),
    ],
)
def test_constrained_values_are_bounded(kind: Any, valid: list[str], invalid: list[str]) -> None:
    adapter = TypeAdapter(kind)

    assert [adapter.validate_python(value) for value in valid] == valid
    for value in invalid:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_a_time_outside_the_range_of_utc_is_refused(text) -> None:
    with pytest.raises(ValidationError, match="no such time"):
        TypeAdapter(Timestamp).validate_json(f'"{text}"')


def test_equal_times_have_equal_text() -> None:
    east = NOON.astimezone(timezone(timedelta(hours=9)))
    adapter = TypeAdapter(Timestamp)

    assert adapter.dump_json(adapter.validate_python(east)) == adapter.dump_json(adapter.validate_python(NOON))
    with pytest.raises(ValidationError):
        adapter.validate_python(NOON.replace(tzinfo=None))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    reordered = dict(reversed(value.items()))

    assert canonical(value) == canonical(reordered)
    assert digest(value) == digest(reordered)


def test_canonical_json_is_stable() -> None:
    assert canonical({"b": [1, None, True], "a": "é"}) == '{"a":"é","b":[1,null,true]}'.encode()
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize("preset", Preset)
def test_identity_and_secrets_are_never_shared(preset: Preset) -> None:
    placement = placement_of(preset)

    assert placement.identity is Isolation.SILO
    assert placement.secrets is Isolation.SILO


def test_an_event_is_declared_once_with_a_field_for_its_id() -> None:
    with pytest.raises(TypeError, match="declared twice"):

        class Again(Event, type="usage.recorded", version=1, aggregate="usage", key="tenant_id"):
            tenant_id: TenantId

    with pytest.raises(TypeError, match="must name its aggregate"):

        class Keyless(Event, type="test.keyless", version=1, aggregate="thing", key="nothing"):
            tenant_id: TenantId


class FirstRenamed(Event, type="test.renamed", version=1, aggregate="thing", key="thing"):
    thing: str
    title: str


class Renamed(Event, type="test.renamed", version=2, aggregate="thing", key="thing"):
    thing: str
    name: str
    words: int


@upcaster("test.renamed", 1)
def _renamed(fields: dict[str, Any]) -> dict[str, Any]:
    return {"thing": fields["thing"], "name": fields["title"], "words": len(fields["title"].split())}


class Gapped(Event, type="test.gapped", version=3, aggregate="thing", key="thing"):
    thing: str


def test_an_old_version_is_upcast_to_the_latest() -> None:
    old = FirstRenamed(thing="t1", title="two words")

    assert decode("test.renamed", 1, encode(old)) == Renamed(thing="t1", name="two words", words=2)
    assert latest_event("test.renamed") is Renamed


def test_the_latest_version_is_decoded_unchanged() -> None:
    new = Renamed(thing="t1", name="n", words=1)

    assert decode("test.renamed", 2, encode(new)) == new


@pytest.mark.parametrize("version", [-1, 0, 3])
def test_a_version_out_of_range_is_unknown(version: int) -> None:
    with pytest.raises(UnknownEventError):
        decode("test.renamed", version, b"{}")


def test_a_version_without_an_upcaster_is_unknown() -> None:
    with pytest.raises(UnknownEventError, match=r"test\.gapped v1 has no upcaster"):
        decode("test.gapped", 1, b'{"thing":"t"}')


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"null", b"{}", b'{"thing":"t","title":5}', b'{"thing":5,"title":"a"}']
)
def test_an_invalid_old_payload_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidEventError):
        decode("test.renamed", 1, payload)


def test_an_unknown_type_has_no_latest_class() -> None:
    with pytest.raises(UnknownEventError, match="not a registered event type"):
        latest_event("test.missing")


def test_only_currencies_of_iso_4217_are_currencies() -> None:
    assert [is_currency(code) for code in ("EUR", "KWD", "ZZZ", "XAU", "XXX", "eur")] == [True, True] + [False] * 4
    assert [minor_digits(code) for code in ("EUR", "JPY", "KWD", "UYW", "ZZZ")] == [2, 0, 3, 4, 2]
