"""Private halves of licence keys: made once for a name, kept in the secret store, destroyed when they sign no more."""

import json
from base64 import urlsafe_b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from paybill_billing.licences.effects import LostKeyError, SigningKeys
from paybill_licence import jwk, read_keys
from paybill_runtime.security.identity import Identity, make_identity
from paybill_runtime.security.secrets import FileSecrets, SecretNotFoundError


def secrets_of(folder, name="billing"):
    make_identity(folder / "identities", name)
    return FileSecrets(folder / "secrets", Identity.load(folder / "identities", name))


@pytest.fixture
def secrets(tmp_path):
    return secrets_of(tmp_path)


@pytest.fixture
def keys(secrets):
    return SigningKeys(secrets)


def public(made) -> Ed25519PublicKey:
    return read_keys(json.dumps({"keys": [jwk(made.public_key)]}))[made.kid]


async def test_another_attempt_finds_the_key_that_the_first_one_made(keys):
    first, again = await keys.generate("licence-keys/a"), await keys.generate("licence-keys/a")

    assert first == again
    assert (await keys.generate("licence-keys/b")).kid != first.kid


async def test_what_a_key_signs_verifies_with_its_public_half(keys):
    made = await keys.generate("licence-keys/a")

    signature = await keys.sign(made.kid, made.secret, b"text")

    assert len(signature) == 86
    public(made).verify(urlsafe_b64decode(signature + "=="), b"text")


async def test_a_key_that_was_destroyed_signs_no_more_and_says_what_to_do(keys, secrets):
    made = await keys.generate("licence-keys/a")
    await keys.destroy(made.secret)
    await keys.destroy(made.secret)

    with pytest.raises(LostKeyError, match=rf"{made.kid}.*secret_not_found.*rotate-keys"):
        await keys.sign(made.kid, made.secret, b"text")
    with pytest.raises(SecretNotFoundError):
        await secrets.get(made.secret)


async def test_a_key_that_is_damaged_or_another_one_does_not_sign(keys, secrets, tmp_path):
    made, other = await keys.generate("licence-keys/a"), await keys.generate("licence-keys/b")
    short = await secrets.put("licence-keys/c", "AAAA")
    for folder in (tmp_path / "secrets/billing/licence-keys/a").iterdir():
        folder.write_bytes(folder.read_bytes()[:-40])

    for reference in (made.secret, other.secret, short, "secret://billing/nothing?v=1", "no reference"):
        with pytest.raises(LostKeyError):
            await keys.sign(made.kid, reference, b"text")


async def test_nobody_else_reads_a_private_half(keys, tmp_path):
    made = await keys.generate("licence-keys/a")

    with pytest.raises(LostKeyError, match="secret_forbidden"):
        await SigningKeys(secrets_of(tmp_path, "tenant")).sign(made.kid, made.secret, b"text")
