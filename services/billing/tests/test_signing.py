"""Tests of private licence keys: generation by name, storage as secrets, signing and destruction."""

import json
from base64 import urlsafe_b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from paybill_billing.licences.effects import LostKeyError, SigningKeys
from paybill_licence import jwk, read_keys
from paybill_runtime.security.identity import Identity
from paybill_runtime.security.secrets import FileSecrets, SecretNotFoundError
from paybill_runtime.testing.signing import make_test_identity


def secrets_of(folder, name="billing"):
    make_test_identity(folder / "identities", name)
    return FileSecrets(folder / "secrets", Identity.load(folder / "identities", name))


@pytest.fixture
def secrets(tmp_path):
    return secrets_of(tmp_path)


@pytest.fixture
def keys(secrets):
    return SigningKeys(secrets)


def public(key) -> Ed25519PublicKey:
    return read_keys(json.dumps({"keys": [jwk(key.public_key)]}))[key.kid]


async def test_generating_a_key_is_idempotent_by_name(keys):
    first, second = await keys.generate("licence-keys/a"), await keys.generate("licence-keys/a")

    assert first == second
    assert (await keys.generate("licence-keys/b")).kid != first.kid


async def test_a_signature_verifies_with_the_public_half(keys):
    key = await keys.generate("licence-keys/a")

    signature = await keys.sign(key.kid, key.secret, b"text")

    assert len(signature) == 86
    public(key).verify(urlsafe_b64decode(signature + "=="), b"text")


async def test_a_destroyed_key_cannot_sign_and_the_error_names_the_remedy(keys, secrets):
    key = await keys.generate("licence-keys/a")
    await keys.destroy(key.secret)
    await keys.destroy(key.secret)

    with pytest.raises(LostKeyError, match=rf"{key.kid}.*secret_not_found.*rotate-keys"):
        await keys.sign(key.kid, key.secret, b"text")
    with pytest.raises(SecretNotFoundError):
        await secrets.get(key.secret)


async def test_a_damaged_or_different_key_cannot_sign(keys, secrets, tmp_path):
    key, other = await keys.generate("licence-keys/a"), await keys.generate("licence-keys/b")
    short = await secrets.put("licence-keys/c", "AAAA")
    for folder in (tmp_path / "secrets/billing/licence-keys/a").iterdir():
        folder.write_bytes(folder.read_bytes()[:-40])

    for reference in (key.secret, other.secret, short, "secret://billing/nothing?v=1", "no reference"):
        with pytest.raises(LostKeyError):
            await keys.sign(key.kid, reference, b"text")


async def test_another_service_cannot_read_a_private_half(keys, tmp_path):
    key = await keys.generate("licence-keys/a")

    with pytest.raises(LostKeyError, match="secret_forbidden"):
        await SigningKeys(secrets_of(tmp_path, "tenant")).sign(key.kid, key.secret, b"text")
