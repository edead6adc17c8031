"""Known keys: only a certified key of the writer itself, published before and not withdrawn, verifies a fact."""

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_contracts.signatures import encoded, key_id, leaf_of, sign
from paybill_contracts.signing_keys import (
    PUBLISHED,
    WITHDRAWN,
    BillingSigningKeyPublished,
    KnownKeys,
    Refusal,
    TenantSigningKeyPublished,
    TenantSigningKeyWithdrawn,
    certify,
)
from paybill_contracts.tenant import TenantActivated

ROOT_KEY, OTHER_ROOT, FIRST, SECOND, THIRD, OF_BILLING = (
    Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(1, 7)
)
AT = datetime(2026, 12, 1, tzinfo=UTC)
TENANT_ID = "ten_" + "1" * 32
ACTIVATED = TenantActivated(tenant_id=TENANT_ID, slug="acme", environment_id="env_" + "1" * 32, epoch=1)


def public(key):
    return key.public_key().public_bytes_raw()


def id_of(key):
    return key_id(public(key))


def published(key, number=1, *, replaces=None, by=ROOT_KEY, issuer="root", kind=TenantSigningKeyPublished):
    event = kind(
        key_id=id_of(key),
        public_key=encoded(public(key)),
        number=number,
        valid_since=AT,
        replaces=replaces,
        issuer=issuer,
        certificate="A" * 86,
    )
    certificate = certify(by, PUBLISHED, kind.OWNER, event.model_dump(mode="json"))
    return event.model_copy(update={"certificate": certificate})


def withdrawn(key, by=ROOT_KEY, issuer="root"):
    event = TenantSigningKeyWithdrawn(
        key_id=id_of(key), reason="stolen", withdrawn_at=AT, issuer=issuer, certificate="A" * 86
    )
    certificate = certify(by, WITHDRAWN, "tenant", event.model_dump(mode="json"))
    return event.model_copy(update={"certificate": certificate})


def message(event, key, **changed):
    """A signed fact as subject, headers and payload. changed: headers that are set before it is signed."""
    origin = Origin("c", "c", "service:tenant", "00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    subject, payload = subject_of(event), encode(event)
    headers = headers_of(Fact(event, "0190a5b0-0000-7000-8000-000000000001", AT, 1, origin)) | changed
    return subject, headers | {"pb-sig": sign(key, id_of(key), [leaf_of(subject, headers, payload)])[0]}, payload


@pytest.fixture
def known():
    keys = KnownKeys(public(ROOT_KEY))
    assert keys.verify(*message(published(FIRST), FIRST), 10) is None
    assert keys.verify(*message(published(OF_BILLING, kind=BillingSigningKeyPublished), OF_BILLING), 11) is None
    return keys


def test_a_fact_of_its_writer_is_valid(known):
    assert known.verify(*message(ACTIVATED, FIRST), 12) is None
    assert known.verify(*message(ACTIVATED, FIRST), 13) is None


@pytest.mark.parametrize("sequence", [9, 0])
def test_a_fact_before_its_key_is_refused(known, sequence):
    assert known.verify(*message(ACTIVATED, FIRST), sequence) is Refusal.KEY_TOO_NEW


def test_a_fact_without_signature_is_refused_from_the_configured_sequence_on():
    subject, headers, payload = message(ACTIVATED, FIRST)
    del headers["pb-sig"]
    known = KnownKeys(public(ROOT_KEY), signed_from=100)

    assert known.verify(subject, headers, payload, 99) is None
    assert known.verify(subject, headers, payload, 100) is Refusal.UNSIGNED


def test_a_key_is_never_published_without_signature():
    subject, headers, payload = message(published(FIRST), FIRST)
    del headers["pb-sig"]

    assert KnownKeys(public(ROOT_KEY), signed_from=100).verify(subject, headers, payload, 1) is Refusal.UNSIGNED


def test_the_key_of_another_service_or_nobody_signs_nothing(known):
    assert known.verify(*message(ACTIVATED, OF_BILLING), 12) is Refusal.KEY_OF_ANOTHER
    assert known.verify(*message(ACTIVATED, SECOND), 12) is Refusal.UNKNOWN_KEY


def test_the_source_has_to_be_the_writer(known):
    assert known.verify(*message(ACTIVATED, FIRST, **{"ce-source": "paybill/billing"}), 12) is Refusal.OTHER_SOURCE
    assert known.verify(*message(ACTIVATED, OF_BILLING, **{"ce-source": "paybill/billing"}), 12) is Refusal.OTHER_SOURCE


def test_a_changed_part_is_refused(known):
    subject, headers, payload = message(ACTIVATED, FIRST)
    elsewhere = subject.replace("tenant_activated", "tenant_purged")
    _, others, _ = message(ACTIVATED.model_copy(update={"tenant_id": "ten_" + "2" * 32}), FIRST)

    assert known.verify(elsewhere, headers, payload, 12) is Refusal.ALTERED
    assert known.verify(subject, headers, payload + b" ", 12) is Refusal.ALTERED
    assert known.verify(subject, headers | {"pb-actor": "user:eve"}, payload, 12) is Refusal.ALTERED
    assert known.verify(subject, headers | {"pb-new": "x"}, payload, 12) is Refusal.ALTERED
    assert known.verify(subject, headers | {"pb-sig": others["pb-sig"]}, payload, 12) is Refusal.ALTERED
    assert known.verify(subject, headers | {"pb-sig": "x"}, payload, 12) is Refusal.MALFORMED


def test_a_root_that_held_does_not_make_another_signature_valid(known):
    subject, headers, payload = message(ACTIVATED, FIRST)
    assert known.verify(subject, headers, payload, 12) is None
    leaf = leaf_of(subject, headers, payload)
    forged = sign(SECOND, id_of(FIRST), [leaf])[0]

    assert known.verify(subject, headers | {"pb-sig": forged}, payload, 13) is Refusal.ALTERED


@pytest.mark.parametrize(
    "forged",
    [
        published(SECOND, 2, by=SECOND, issuer="root"),  # a certificate by itself
        published(SECOND, 2, by=OTHER_ROOT, issuer="root"),
        published(SECOND, 2, by=SECOND, issuer=id_of(SECOND)),
        published(SECOND, 2, by=OF_BILLING, issuer=id_of(OF_BILLING), replaces=id_of(OF_BILLING)),
        published(SECOND, 2, by=FIRST, issuer=id_of(FIRST), replaces=None),
        published(SECOND, 2).model_copy(update={"number": 3}),
        published(SECOND, 2).model_copy(update={"key_id": id_of(THIRD)}),
        published(SECOND, 2).model_copy(update={"certificate": published(THIRD, 2).certificate}),
        TenantSigningKeyPublished(**published(SECOND, 2, kind=BillingSigningKeyPublished).model_dump()),
        withdrawn(FIRST, by=FIRST, issuer=id_of(FIRST)),
        withdrawn(FIRST, by=SECOND, issuer="root"),
        withdrawn(SECOND),
        withdrawn(OF_BILLING),
    ],
)
def test_a_forged_fact_about_a_key_is_refused(known, forged):
    assert known.verify(*message(forged, FIRST), 12) is Refusal.FORGED_KEY
    assert known.verify(*message(ACTIVATED, SECOND), 13) is Refusal.UNKNOWN_KEY
    assert known.verify(*message(ACTIVATED, FIRST), 14) is None


def test_the_previous_key_certifies_the_next_one_and_both_are_valid(known):
    second = published(SECOND, 2, by=FIRST, issuer=id_of(FIRST), replaces=id_of(FIRST))

    assert known.verify(*message(second, FIRST), 20) is None
    assert known.verify(*message(ACTIVATED, SECOND), 21) is None
    assert known.verify(*message(ACTIVATED, FIRST), 22) is None  # recorded before, published later
    assert known.newest("tenant").number == 2


def test_an_older_key_is_not_published_again(known):
    second = published(SECOND, 2)
    assert known.verify(*message(second, SECOND), 20) is None

    assert known.verify(*message(second, SECOND), 21) is None  # the relay published it twice
    assert known.verify(*message(published(FIRST), FIRST), 22) is Refusal.REPLAYED_KEY
    assert known.verify(*message(published(THIRD, 2), SECOND), 23) is Refusal.REPLAYED_KEY


def test_a_withdrawn_key_verifies_only_what_stands_before(known):
    second = published(SECOND, 2, by=FIRST, issuer=id_of(FIRST), replaces=id_of(FIRST))
    assert known.verify(*message(second, FIRST), 20) is None
    assert known.verify(*message(withdrawn(FIRST, by=SECOND, issuer=id_of(SECOND)), SECOND), 21) is None

    assert known.verify(*message(ACTIVATED, FIRST), 19) is None
    assert known.verify(*message(ACTIVATED, FIRST), 22) is Refusal.KEY_WITHDRAWN
    assert known.verify(*message(published(FIRST), FIRST), 23) is Refusal.REPLAYED_KEY
    third = published(THIRD, 3, by=FIRST, issuer=id_of(FIRST), replaces=id_of(FIRST))
    assert known.verify(*message(third, SECOND), 24) is Refusal.FORGED_KEY


def test_a_withdrawn_newest_key_needs_the_root_for_the_next_one(known):
    assert known.verify(*message(withdrawn(FIRST), FIRST), 20) is None
    by_thief = published(SECOND, 2, by=FIRST, issuer=id_of(FIRST), replaces=id_of(FIRST))

    assert known.verify(*message(by_thief, SECOND), 21) is Refusal.FORGED_KEY
    assert known.verify(*message(published(SECOND, 2, replaces=id_of(FIRST)), SECOND), 22) is None
    assert known.verify(*message(ACTIVATED, SECOND), 23) is None


def test_every_refusal_is_explained():
    assert all(refusal.explanation for refusal in Refusal)
