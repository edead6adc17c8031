"""Tests of the rules of signing keys and of the revocation list."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from billing_samples import DAY, NOW, TENANT
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.licences.domain import licence_keys, revocations
from paybill_billing.licences.domain.licence_keys import KeyOrderError, State
from paybill_billing.licences.domain.revocations import ListOrderError
from paybill_billing.licences.tables import KEYRINGS
from paybill_contracts.licences import (
    LicenceKeyPublished,
    LicenceKeyRetired,
    LicenceRevocationsChanged,
    LicenceRevoked,
    RevocationOrigin,
)
from paybill_licence import (
    MAX_REVOCATIONS,
    TOLERANCE,
    base64url,
    key_id,
    signing_input,
    verify_revocations,
)

DAYS_30 = 30 * 86_400
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
KID = key_id(PUBLIC.public_bytes_raw())


def fold(state, events, evolve):
    for event in events:
        state = evolve(state, event)
    return state


def publish(keyring, name, now=NOW):
    return licence_keys.published(
        keyring, kid=name * 43, public_key=name * 43, secret=f"secret://billing/k/{name.lower()}?v=1", now=now
    )


def rotate(keyring, name, now=NOW, *, compromised=False, end=None, valid_s=DAYS_30):
    requests = licence_keys.rotate(keyring, "why", compromised=compromised, licences_end=end, valid_s=valid_s)
    keyring = fold(keyring, requests, licence_keys.evolve)
    return fold(keyring, publish(keyring, name, now), licence_keys.evolve)


FIRST = rotate(None, "A")


def test_the_first_key_is_requested_until_one_is_active():
    requests = licence_keys.request_first(None, DAYS_30)
    waiting = fold(None, requests, licence_keys.evolve)

    assert licence_keys.active(waiting) is None
    assert licence_keys.request_first(waiting, DAYS_30) == requests
    assert licence_keys.request_first(FIRST, DAYS_30) == []
    assert [key.state for key in licence_keys.trusted(FIRST)] == [State.ACTIVE]
    assert licence_keys.trusted(None) == []


def test_a_replaced_key_is_trusted_until_its_last_licence_expires():
    second = rotate(FIRST, "B", NOW + DAY, end=NOW + 50 * DAY)
    until = NOW + 50 * DAY + licence_keys.MARGIN
    (retired,) = licence_keys.on_time(second, until)
    after = fold(second, [retired], licence_keys.evolve)

    assert [(key.kid[0], key.state) for key in licence_keys.trusted(second)] == [
        ("B", State.ACTIVE),
        ("A", State.RETIRING),
    ]
    assert second.due == until
    assert licence_keys.on_time(second, until - timedelta(seconds=1)) == []
    assert isinstance(retired, LicenceKeyRetired)
    assert [key.kid[0] for key in licence_keys.trusted(after)] == ["B"]
    assert (after.due, licence_keys.on_time(after, until)) == (None, [])


def test_a_replaced_key_is_trusted_for_licences_signed_during_the_rotation():
    second = rotate(FIRST, "B", NOW, end=NOW + DAY)

    assert second.due == NOW + 30 * DAY + licence_keys.MARGIN


def test_a_compromised_key_loses_trust_when_its_successor_is_published():
    second = rotate(FIRST, "B", compromised=True)

    assert [key.kid[0] for key in licence_keys.trusted(second)] == ["B"]
    assert second.keys[0].retired == licence_keys.COMPROMISED


def test_a_key_is_published_once_and_only_for_a_pending_request():
    requested = fold(
        FIRST,
        licence_keys.rotate(FIRST, "x", compromised=False, licences_end=None, valid_s=1),
        licence_keys.evolve,
    )

    assert publish(FIRST, "B") == []
    assert publish(requested, "A") == []
    assert isinstance(publish(requested, "B")[0], LicenceKeyPublished)
    with pytest.raises(KeyOrderError):
        licence_keys.evolve(None, publish(requested, "B")[0])


def test_the_stored_keyring_keeps_its_json_field_names():
    keyring = fold(FIRST, licence_keys.request_first(None, DAYS_30), licence_keys.evolve)

    document = KEYRINGS.dump(keyring)

    assert set(json.loads(document)) == {"id", "keys", "wanted", "due"}
    assert KEYRINGS.load(document) == keyring


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), min_size=1, max_size=8))
def test_after_any_rotations_one_key_is_active_and_no_licence_outlives_its_key_s_trust(rotations):
    keyring, now, ends = None, NOW, {}
    for number, (days, compromised) in enumerate(rotations):
        now += days * DAY
        end = max(ends.values(), default=None)
        keyring = rotate(keyring, "ABCDEFGH"[number], now, compromised=compromised, end=end)
        keyring = fold(keyring, licence_keys.on_time(keyring, now), licence_keys.evolve)
        signer = licence_keys.active(keyring)
        ends[signer.kid] = now + 30 * DAY
        trusted = {key.kid for key in licence_keys.trusted(keyring)}
        for key in keyring.keys:
            if ends[key.kid] + TOLERANCE > now:
                assert key.kid in trusted or key.retired == licence_keys.COMPROMISED
        assert [key.state for key in keyring.keys].count(State.ACTIVE) == 1


def revoked(number, *, revision=1, ends=NOW + 30 * DAY):
    return LicenceRevoked(
        licence_id=f"lic_{number:032x}",
        tenant_id=TENANT,
        revision=revision,
        last_expiry=ends,
        origin=RevocationOrigin.OPERATOR,
        reason="leaked",
    )


def listed(current, fact, now=NOW):
    return fold(current, revocations.on_licence_revoked(current, fact, now), revocations.evolve)


def with_signature(current):
    signature = base64url(KEY.sign(signing_input(revocations.claims_of(current, KID))))
    return fold(current, revocations.signed(current, current.number, KID, signature), revocations.evolve)


EMPTY = with_signature(fold(None, revocations.next_list(None, NOW), revocations.evolve))


def test_a_revoked_licence_is_on_the_next_list_which_verifies():
    current = with_signature(listed(EMPTY, revoked(1, revision=3)))
    verified = verify_revocations(current.signed.text, {KID: PUBLIC}, NOW, None)

    assert (verified.number, current.due) == (2, NOW + revocations.REFRESH)
    assert verified.covers(f"lic_{1:032x}", 3)
    assert not verified.covers(f"lic_{1:032x}", 4)


def test_the_earlier_list_stays_published_until_the_new_one_is_signed():
    current = listed(EMPTY, revoked(1))

    assert (current.number, current.signed.number, current.due) == (2, 1, NOW + revocations.RETRY)
    assert revocations.signed(current, 1, KID, "A" * 86) == []


def test_a_repeated_or_expired_revocation_changes_nothing():
    current = listed(EMPTY, revoked(1, revision=3))

    assert listed(current, revoked(1, revision=3)) == current
    assert listed(current, revoked(1, revision=2)) == current
    assert listed(current, revoked(2, ends=NOW - TOLERANCE)) == current
    assert [entry.revision for entry in listed(current, revoked(1, revision=4)).entries] == [4]


def test_expired_entries_leave_the_list_and_a_new_list_is_issued_daily():
    current = listed(EMPTY, revoked(1, ends=NOW + DAY))
    later = NOW + 2 * DAY
    (event,) = revocations.on_time(current, later)
    after = fold(current, [event], revocations.evolve)

    assert revocations.on_time(current, NOW) == []
    assert isinstance(event, LicenceRevocationsChanged)
    assert (after.entries, after.number, after.next_update) == ((), 3, later + revocations.LIFE)


def test_a_full_list_keeps_the_entries_that_end_last():
    full = replace(EMPTY, entries=listed(EMPTY, revoked(0)).entries * MAX_REVOCATIONS)
    after = listed(full, revoked(1, ends=NOW + 40 * DAY))

    assert len(after.entries) == MAX_REVOCATIONS
    assert after.entries[0].licence_id == f"lic_{1:032x}"


def test_a_signature_before_the_first_list_is_refused():
    with pytest.raises(ListOrderError):
        revocations.evolve(None, revocations.signed(EMPTY, 1, KID, "A" * 86)[0])
