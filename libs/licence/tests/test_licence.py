"""Verification accepts only canonical texts that a trusted key signed, within their validity period."""

from datetime import UTC, datetime, timedelta, timezone

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from paybill_licence import (
    MAX_LICENCE_CHARS,
    MAX_REVOCATIONS,
    MAX_REVOCATIONS_CHARS,
    TOLERANCE,
    BadLicenceSignatureError,
    InvalidTimeError,
    Licence,
    LicenceExpiredError,
    LicenceNotYetValidError,
    LicenceRefusedError,
    LicenceRevokedError,
    MalformedKeysError,
    MalformedLicenceError,
    OldRevocationsError,
    Revocation,
    Revocations,
    UnknownLicenceKeyError,
    WrongLicenceAlgorithmError,
    assemble,
    base64url,
    jwk,
    key_id,
    machine_digest,
    read_keys,
    signing_input,
    verify_licence,
    verify_revocations,
)
from paybill_licence.claims import LimitFeature, PlanRef
from paybill_licence.encoding import canonical

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
ID = "lic_" + "a" * 32
OLD_ZONE = timezone(-timedelta(hours=12))


def public(key):
    return base64url(key.public_key().public_bytes_raw())


def keys_of(*keys):
    return read_keys(orjson.dumps({"keys": [jwk(public(key)) for key in keys]}))


KEYS = keys_of(KEY)
KID = key_id(KEY.public_key().public_bytes_raw())

LICENCE = Licence(
    alg="Ed25519",
    kid=KID,
    licence_id=ID,
    tenant_id="ten_" + "b" * 32,
    subscription_id="sub_" + "c" * 32,
    plan=PlanRef(plan="pro", version=2, catalogue_hash="d" * 64),
    tier="pro",
    features=(LimitFeature(kind="limit", key="projects", limit=20),),
    entitlements_hash="e" * 64,
    seats=3,
    issued_at=NOW,
    not_before=NOW,
    expires_at=NOW + 30 * DAY,
    revision=4,
)
LIST = Revocations(alg="Ed25519", kid=KID, number=7, issued_at=NOW, next_update=NOW + 7 * DAY, revoked=())


def signed(claims, key=KEY):
    return assemble(claims, base64url(key.sign(signing_input(claims))))


def sign_raw(payload, prefix=b"paybill-licence-v1.", key=KEY):
    """Returns a text with a valid signature over any payload."""
    encoded = base64url(payload)
    return f"{encoded}.{base64url(key.sign(prefix + encoded.encode()))}"


TOKEN = signed(LICENCE)


def revocation_list(*revoked, number=7):
    return LIST.model_copy(update={"revoked": revoked, "number": number})


def refusal_of(token, keys=KEYS, now=NOW, revoked=None):
    with pytest.raises(LicenceRefusedError) as caught:
        verify_licence(token, keys, now, revoked)
    assert str(caught.value)
    return type(caught.value)


def test_a_valid_licence_returns_its_claims():
    assert verify_licence(TOKEN, KEYS, NOW) == LICENCE
    assert verify_licence(TOKEN.encode(), KEYS, NOW) == LICENCE


def test_the_text_of_a_licence_is_stable():
    """Ed25519 signatures are deterministic, so a change of the format fails here."""
    assert TOKEN.startswith(base64url(b'{"alg":"Ed25519","entitlements_hash":"eeee')[:40])
    assert TOKEN.endswith("." + base64url(KEY.sign(b"paybill-licence-v1." + TOKEN.partition(".")[0].encode())))
    assert list(orjson.loads(canonical(LICENCE.model_dump(mode="json"))).keys()) == sorted(Licence.model_fields)


def test_a_licence_with_any_flipped_bit_is_refused():
    for bit in range(len(TOKEN) * 8):
        flipped = bytearray(TOKEN.encode())
        flipped[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(LicenceRefusedError):
            verify_licence(bytes(flipped), KEYS, NOW)


@given(st.integers(0, len(TOKEN) - 1))
def test_a_truncated_licence_is_malformed(length):
    assert refusal_of(TOKEN[:length]) is MalformedLicenceError


@given(st.one_of(st.text(), st.binary(), st.text("AQgw-_.", min_size=80), st.from_regex(r"[\w-]+\.[\w-]{86}")))
def test_garbage_raises_only_licence_errors(garbage):
    assert issubclass(refusal_of(garbage), LicenceRefusedError)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_signed_json_that_is_no_licence_is_refused(document):
    try:
        payload = canonical(document)
    except TypeError:  # an integer that no JSON of ours can hold
        payload = b"{}"
    assert issubclass(refusal_of(sign_raw(payload)), LicenceRefusedError)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"alg":"Ed25519","kid":"' + KID.encode() + b'","kid":"' + KID.encode() + b'"}',
        canonical(LICENCE.model_dump(mode="json"))[:-1] + b',"tier":"team"}',
        orjson.dumps(LICENCE.model_dump(mode="json"), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS),
        canonical(LICENCE.model_dump(mode="json")) + b" ",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b"",
        b"null",
    ],
    ids=["a key twice", "a tier twice", "spaces", "a space", "not UTF-8", "open", "deep", "empty", "null"],
)
def test_a_signed_payload_that_is_not_one_canonical_object_is_malformed(payload):
    assert refusal_of(sign_raw(payload)) is MalformedLicenceError


def test_a_text_over_the_size_limit_is_malformed():
    large = canonical(LICENCE.model_dump(mode="json") | {"more": "x" * MAX_LICENCE_CHARS})

    assert refusal_of(sign_raw(large)) is MalformedLicenceError
    assert refusal_of("A" * (MAX_LICENCE_CHARS + 1)) is MalformedLicenceError
    assert refusal_of(b"\xff" * (MAX_LICENCE_CHARS + 1)) is MalformedLicenceError


def test_a_non_canonical_encoding_of_the_signature_is_refused():
    last = TOKEN[-1]
    twin = next(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" if c != last)

    assert refusal_of(TOKEN[:-1] + twin) in {MalformedLicenceError, BadLicenceSignatureError}
    assert refusal_of(TOKEN + "==") is MalformedLicenceError
    assert refusal_of(TOKEN[:9] + "\n" + TOKEN[9:]) is MalformedLicenceError


@pytest.mark.parametrize("alg", ["none", "HS256", "EdDSA", "ed25519", "", None, 1, ["Ed25519"]])
def test_another_algorithm_is_refused_although_the_signature_is_valid(alg):
    payload = canonical(LICENCE.model_dump(mode="json") | {"alg": alg})

    assert refusal_of(sign_raw(payload)) is WrongLicenceAlgorithmError


@pytest.mark.parametrize("kid", ["", None, 1, "A" * 43, {"x": 1}, ["a"], "../../keys"])
def test_an_untrusted_key_is_refused(kid):
    payload = canonical(LICENCE.model_dump(mode="json") | {"kid": kid})

    assert refusal_of(sign_raw(payload)) is UnknownLicenceKeyError


def test_a_key_inside_the_licence_is_ignored():
    own = canonical(LICENCE.model_dump(mode="json") | {"kid": key_id(b"x" * 32), "jwk": jwk(public(OTHER))})

    assert refusal_of(sign_raw(own, key=OTHER)) is UnknownLicenceKeyError


def test_a_licence_signed_by_another_key_is_refused():
    assert refusal_of(signed(LICENCE, OTHER)) is BadLicenceSignatureError
    assert refusal_of(TOKEN, keys_of(OTHER)) is UnknownLicenceKeyError
    assert refusal_of(TOKEN, {}) is UnknownLicenceKeyError


def test_a_revocation_list_is_no_licence_and_a_licence_no_revocation_list():
    assert refusal_of(signed(LIST)) is BadLicenceSignatureError
    with pytest.raises(BadLicenceSignatureError):
        verify_revocations(TOKEN, KEYS, NOW)


def test_a_field_of_a_later_version_is_ignored():
    more = canonical(LICENCE.model_dump(mode="json") | {"region": "eu"})

    assert verify_licence(sign_raw(more), KEYS, NOW) == LICENCE


@pytest.mark.parametrize(
    "change", [{"seats": -1}, {"seats": "3"}, {"seats": 1.0}, {"expires_at": "soon"}, {"features": [{"kind": "?"}]}]
)
def test_an_invalid_claim_is_malformed(change):
    payload = canonical(LICENCE.model_dump(mode="json") | change)

    assert refusal_of(sign_raw(payload)) is MalformedLicenceError


@given(st.timedeltas(-3 * DAY, 40 * DAY))
def test_a_licence_is_valid_within_its_period_and_the_clock_tolerance(offset):
    now = NOW + offset

    if now < NOW - TOLERANCE:
        assert refusal_of(TOKEN, now=now) is LicenceNotYetValidError
    elif now >= LICENCE.expires_at + TOLERANCE:
        assert refusal_of(TOKEN, now=now) is LicenceExpiredError
    else:
        assert verify_licence(TOKEN, KEYS, now) == LICENCE


def test_the_validity_period_ends_are_exact_to_the_microsecond():
    instant = timedelta(microseconds=1)

    assert verify_licence(TOKEN, KEYS, NOW - TOLERANCE) == LICENCE
    assert verify_licence(TOKEN, KEYS, LICENCE.expires_at + TOLERANCE - instant) == LICENCE
    assert refusal_of(TOKEN, now=NOW - TOLERANCE - instant) is LicenceNotYetValidError
    assert refusal_of(TOKEN, now=LICENCE.expires_at + TOLERANCE) is LicenceExpiredError


def test_a_revocation_covers_revisions_up_to_its_own():
    def revoked(revision):
        return revocation_list(Revocation(licence_id=ID, revision=revision))

    assert refusal_of(TOKEN, revoked=revoked(4)) is LicenceRevokedError
    assert refusal_of(TOKEN, revoked=revoked(9)) is LicenceRevokedError
    assert verify_licence(TOKEN, KEYS, NOW, revoked(3)) == LICENCE
    assert (
        verify_licence(TOKEN, KEYS, NOW, revocation_list(Revocation(licence_id="lic_" + "0" * 32, revision=9)))
        == LICENCE
    )


def test_a_stale_revocation_list_still_revokes_and_reports_that_it_is_stale():
    late = LIST.next_update + DAY
    old = verify_revocations(signed(revocation_list(Revocation(licence_id=ID, revision=4))), KEYS, late)

    assert (old.is_stale(late), old.is_stale(NOW)) == (True, False)
    assert refusal_of(TOKEN, now=late, revoked=old) is LicenceRevokedError


def test_an_older_revocation_list_is_refused_when_a_newer_one_is_known():
    newer = verify_revocations(signed(revocation_list(number=8)), KEYS, NOW)

    with pytest.raises(OldRevocationsError, match=r"list 7, .* 8 is known"):
        verify_revocations(signed(LIST), KEYS, NOW, newer)
    assert verify_revocations(signed(revocation_list(number=8)), KEYS, NOW, newer) == newer


def test_a_revocation_list_from_the_future_is_refused():
    with pytest.raises(LicenceNotYetValidError):
        verify_revocations(signed(LIST), KEYS, NOW - TOLERANCE - timedelta(seconds=1))


def test_the_largest_revocation_list_fits_the_size_limit():
    entries = [Revocation(licence_id=f"lic_{number:032x}", revision=10**9) for number in range(MAX_REVOCATIONS)]
    text = signed(revocation_list(*entries))

    assert len(text) < MAX_REVOCATIONS_CHARS
    assert verify_revocations(text, KEYS, NOW).covers(entries[-1].licence_id, 1)


def test_two_keys_are_trusted_during_a_key_rotation():
    both = keys_of(KEY, OTHER)
    kid = key_id(OTHER.public_key().public_bytes_raw())
    new = LICENCE.model_copy(update={"kid": kid, "revision": 5})

    assert verify_licence(TOKEN, both, NOW) == LICENCE
    assert verify_licence(signed(new, OTHER), both, NOW) == new


def test_keys_of_other_kinds_in_the_set_are_ignored():
    rsa = {"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB"}
    x25519 = {"kty": "OKP", "crv": "X25519", "kid": "x", "x": public(OTHER)}

    assert list(read_keys(orjson.dumps({"keys": [rsa, x25519, jwk(public(KEY))]}))) == [KID]


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "{}",
        '{"keys": []}',
        '{"keys": 1}',
        '{"keys": [1]}',
        '{"keys": [{"kty": "OKP", "crv": "Ed25519"}]}',
        '{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": ["a"], "x": "AAAA"}]}',
        orjson.dumps({"keys": [jwk(public(KEY)) | {"x": "AAAA"}]}),
        orjson.dumps({"keys": [jwk(public(KEY)) | {"x": 1}]}),
        orjson.dumps({"keys": [jwk(public(KEY)) | {"kid": "mine"}]}),
        orjson.dumps({"keys": [jwk(public(KEY)) | {"x": public(OTHER)}]}),
        b" " * 65_537,
        b"\xff",
    ],
)
def test_an_invalid_key_set_is_refused(document):
    with pytest.raises(MalformedKeysError):
        read_keys(document)


@given(st.one_of(st.text(), st.binary()))
def test_a_random_key_set_raises_only_its_own_error(document):
    with pytest.raises(MalformedKeysError):
        read_keys(document)


def test_a_key_id_is_the_thumbprint_of_the_rfc():
    """RFC 8037, appendix A.2 and A.3."""
    x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"

    assert jwk(x)["kid"] == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_digests_of_one_machine_under_two_licences_cannot_be_linked():
    assert machine_digest(ID, "m") == machine_digest(ID, "m")
    assert len({machine_digest(ID, "m"), machine_digest("lic_" + "0" * 32, "m"), machine_digest(ID, "n")}) == 3
    assert len(machine_digest(ID, "\ud800")) == 64


@pytest.mark.parametrize(
    "text", [TOKEN + "\n", f" \t{TOKEN}\r\n", f"\n{TOKEN}".encode()], ids=["line", "both", "bytes"]
)
def test_white_space_at_the_ends_is_ignored(text):
    assert verify_licence(text, KEYS, NOW) == LICENCE


@pytest.mark.parametrize(
    "now", [None, NOW.replace(tzinfo=None), 0, "2026-03-01", datetime.max.replace(tzinfo=OLD_ZONE)]
)
def test_a_time_without_a_zone_is_refused(now):
    with pytest.raises(InvalidTimeError, match="time"):
        verify_licence(TOKEN, KEYS, now)
    with pytest.raises(InvalidTimeError):
        verify_revocations(TOKEN, KEYS, now)


@pytest.mark.parametrize("token", [None, 7, [TOKEN]])
def test_a_licence_that_is_no_text_is_malformed(token):
    with pytest.raises(MalformedLicenceError):
        verify_licence(token, KEYS, NOW)
