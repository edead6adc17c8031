"""Keys that sign licences rotate, and what was revoked is listed."""

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


def made(keyring, name, now=NOW):
    return licence_keys.published(
        keyring, kid=name * 43, public_key=name * 43, secret=f"secret://billing/k/{name.lower()}?v=1", now=now
    )


def turn(keyring, name, now=NOW, *, compromised=False, end=None, valid_s=DAYS_30):
    asked = licence_keys.rotate(keyring, "why", compromised=compromised, licences_end=end, valid_s=valid_s)
    keyring = fold(keyring, asked, licence_keys.evolve)
    return fold(keyring, made(keyring, name, now), licence_keys.evolve)


FIRST = turn(None, "A")


def test_the_first_key_is_asked_for_until_there_is_one():
    asked = licence_keys.request_first(None, DAYS_30)
    waiting = fold(None, asked, licence_keys.evolve)

    assert licence_keys.active(waiting) is None
    assert licence_keys.request_first(waiting, DAYS_30) == asked
    assert licence_keys.request_first(FIRST, DAYS_30) == []
    assert [key.state for key in licence_keys.trusted(FIRST)] == [State.ACTIVE]
    assert licence_keys.trusted(None) == []


def test_a_key_that_is_replaced_is_trusted_until_its_last_licence_has_ended():
    second = turn(FIRST, "B", NOW + DAY, end=NOW + 50 * DAY)
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


def test_a_key_is_trusted_for_what_is_signed_while_it_is_replaced():
    second = turn(FIRST, "B", NOW, end=NOW + DAY)

    assert second.due == NOW + 30 * DAY + licence_keys.MARGIN


def test_a_compromised_key_is_trusted_no_more_as_soon_as_there_is_another():
    second = turn(FIRST, "B", compromised=True)

    assert [key.kid[0] for key in licence_keys.trusted(second)] == ["B"]
    assert second.keys[0].retired == licence_keys.COMPROMISED


def test_a_key_is_published_once_and_only_when_one_is_wanted():
    wanted = fold(
        FIRST,
        licence_keys.rotate(FIRST, "x", compromised=False, licences_end=None, valid_s=1),
        licence_keys.evolve,
    )

    assert made(FIRST, "B") == []
    assert made(wanted, "A") == []
    assert isinstance(made(wanted, "B")[0], LicenceKeyPublished)
    with pytest.raises(KeyOrderError):
        licence_keys.evolve(None, made(wanted, "B")[0])


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), min_size=1, max_size=8))
def test_however_keys_rotate_one_signs_and_no_licence_outlives_the_trust_in_its_key(turns):
    keyring, now, ends = None, NOW, {}
    for number, (days, compromised) in enumerate(turns):
        now += days * DAY
        end = max(ends.values(), default=None)
        keyring = turn(keyring, "ABCDEFGH"[number], now, compromised=compromised, end=end)
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


def listed(known, fact, now=NOW):
    return fold(known, revocations.on_licence_revoked(known, fact, now), revocations.evolve)


def with_signature(known):
    signature = base64url(KEY.sign(signing_input(revocations.claims_of(known, KID))))
    return fold(known, revocations.signed(known, known.number, KID, signature), revocations.evolve)


EMPTY = with_signature(fold(None, revocations.next_list(None, NOW), revocations.evolve))


def test_a_revoked_licence_is_on_the_next_list_which_verifies():
    known = with_signature(listed(EMPTY, revoked(1, revision=3)))
    found = verify_revocations(known.signed.text, {KID: PUBLIC}, NOW, None)

    assert (found.number, known.due) == (2, NOW + revocations.REFRESH)
    assert found.covers(f"lic_{1:032x}", 3)
    assert not found.covers(f"lic_{1:032x}", 4)


def test_until_it_is_signed_the_list_before_is_the_one_that_can_be_had():
    known = listed(EMPTY, revoked(1))

    assert (known.number, known.signed.number, known.due) == (2, 1, NOW + revocations.RETRY)
    assert revocations.signed(known, 1, KID, "A" * 86) == []


def test_a_revocation_that_is_heard_again_or_needed_by_nobody_changes_nothing():
    known = listed(EMPTY, revoked(1, revision=3))

    assert listed(known, revoked(1, revision=3)) == known
    assert listed(known, revoked(1, revision=2)) == known
    assert listed(known, revoked(2, ends=NOW - TOLERANCE)) == known
    assert [entry.revision for entry in listed(known, revoked(1, revision=4)).entries] == [4]


def test_what_has_ended_leaves_the_list_and_the_list_is_drawn_anew_every_day():
    known = listed(EMPTY, revoked(1, ends=NOW + DAY))
    later = NOW + 2 * DAY
    (said,) = revocations.on_time(known, later)
    after = fold(known, [said], revocations.evolve)

    assert revocations.on_time(known, NOW) == []
    assert isinstance(said, LicenceRevocationsChanged)
    assert (after.entries, after.number, after.next_update) == ((), 3, later + revocations.LIFE)


def test_a_list_that_is_full_keeps_those_that_would_live_longest():
    full = replace(EMPTY, entries=listed(EMPTY, revoked(0)).entries * MAX_REVOCATIONS)
    after = listed(full, revoked(1, ends=NOW + 40 * DAY))

    assert len(after.entries) == MAX_REVOCATIONS
    assert after.entries[0].licence_id == f"lic_{1:032x}"


def test_a_signature_needs_a_list():
    with pytest.raises(ListOrderError):
        revocations.evolve(None, revocations.signed(EMPTY, 1, KID, "A" * 86)[0])
