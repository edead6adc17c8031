"""Personal values are decrypted only by their own key, under their own name, and unaltered."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paybill_contracts.personal import Personal, UnsealingError, seal, unseal
from pydantic import ValidationError

NAME = "tenant/ten_0123456789abcdef0123456789abcdef"
OTHER = "tenant/ten_ffffffffffffffffffffffffffffffff"
KEY, WRONG = bytes(range(32)), bytes(32)
NONCE = bytes(12)
SEALED = seal("alice@example.org", key=KEY, name=NAME, nonce=NONCE)


@given(value=st.text(max_size=254), key=st.binary(min_size=32, max_size=32), nonce=st.binary(min_size=12, max_size=12))
def test_a_sealed_value_is_unsealed_with_its_key(value: str, key: bytes, nonce: bytes) -> None:
    assert unseal(seal(value, key=key, name=NAME, nonce=nonce), key) == value


def test_the_stored_form_does_not_contain_the_value() -> None:
    assert "alice" not in SEALED.model_dump_json()
    assert b"alice" not in b64decode(SEALED.sealed)


def test_another_key_does_not_unseal_it() -> None:
    with pytest.raises(UnsealingError, match=NAME):
        unseal(SEALED, WRONG)


def test_a_value_under_another_key_name_is_not_unsealed() -> None:
    with pytest.raises(UnsealingError):
        unseal(Personal[str](key=OTHER, sealed=SEALED.sealed), KEY)


@given(st.integers(0, len(b64decode(SEALED.sealed)) - 1), st.integers(1, 255))
def test_an_altered_value_is_not_unsealed(index: int, change: int) -> None:
    raw = bytearray(b64decode(SEALED.sealed))
    raw[index] ^= change

    with pytest.raises(UnsealingError):
        unseal(Personal[str](key=NAME, sealed=b64encode(raw).decode()), KEY)


def test_a_truncated_value_is_not_unsealed() -> None:
    raw = b64decode(SEALED.sealed)

    with pytest.raises(UnsealingError):
        unseal(Personal[str](key=NAME, sealed=b64encode(raw[:-1]).decode()), KEY)


@pytest.mark.parametrize(
    "payload",
    [
        {"key": "tenant/acme", "sealed": "A" * 60},
        {"key": NAME, "sealed": "alice@example.org"},
        {"key": NAME, "sealed": ""},
        {"key": NAME, "sealed": "A" * 9000},
        {"key": NAME},
        "alice@example.org",
    ],
)
def test_a_value_without_the_sealed_form_is_refused(payload: object) -> None:
    with pytest.raises(ValidationError):
        Personal[str].model_validate(payload)
