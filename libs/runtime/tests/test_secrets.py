"""Secrets and identities: only the recipients of a secret can decrypt it."""

import asyncio
import stat
from base64 import b64decode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from paybill_contracts.key_copies import SUITE
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.security.identity import Identity, WrongRecipientError, make_identity
from paybill_runtime.security.secrets import FileSecrets, SecretForbiddenError, SecretNotFoundError


@pytest.fixture
def people(tmp_path: Path) -> dict[str, FileSecrets]:
    for name in ("provisioner", "operator", "billing"):
        make_identity(tmp_path / "identities", name)
    return {
        name: FileSecrets(tmp_path / "secrets", Identity.load(tmp_path / "identities", name))
        for name in ("provisioner", "operator", "billing")
    }


async def test_only_the_writer_and_the_granted_service_can_read_a_secret(people) -> None:
    reference = await people["provisioner"].put("env/database", "s3cret", recipients=["operator"])

    assert reference == "secret://provisioner/env/database?v=1"
    assert await people["provisioner"].get(reference) == "s3cret"
    assert await people["operator"].get(reference) == "s3cret"
    with pytest.raises(SecretForbiddenError):
        await people["billing"].get(reference)


async def test_versions_are_kept_apart_and_the_latest_is_known(people) -> None:
    secrets = people["provisioner"]
    first = await secrets.put("a", "one")
    second = await secrets.put("a", "two")

    assert await secrets.latest("a") == second
    assert [await secrets.get(first), await secrets.get(second)] == ["one", "two"]


async def test_deleting_destroys_every_version_and_can_be_repeated(people, tmp_path: Path) -> None:
    secrets = people["provisioner"]
    reference = await secrets.put("a", "one")

    await secrets.delete("a")
    await secrets.delete("a")

    assert await secrets.latest("a") is None
    with pytest.raises(SecretNotFoundError):
        await secrets.get(reference)


async def test_a_reference_never_changes_its_value(people) -> None:
    secrets = people["provisioner"]
    old = await secrets.put("a", "one")
    await secrets.delete("a")

    new = await secrets.put("a", "two")

    assert new != old
    assert await secrets.get(new) == "two"
    with pytest.raises(SecretNotFoundError):
        await secrets.get(old)


async def test_values_written_concurrently_are_all_stored(people) -> None:
    secrets = people["provisioner"]

    references = await asyncio.gather(*(secrets.put("a", str(number)) for number in range(8)))

    assert len(set(references)) == 8
    assert [await secrets.get(reference) for reference in references] == [str(number) for number in range(8)]


async def test_files_are_private_and_contain_no_plain_text(people, tmp_path: Path) -> None:
    await people["provisioner"].put("env/database", "s3cret-value")

    files = [path for path in (tmp_path / "secrets").rglob("*") if path.is_file()]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600]
    assert b"s3cret-value" not in files[0].read_bytes()


@pytest.mark.parametrize("name", ["../billing/x", "a//b", "/etc/passwd", "A", "", "a" * 181, "a/../b"])
async def test_a_name_cannot_leave_the_writer_s_folder(people, name) -> None:
    with pytest.raises(SecretNotFoundError):
        await people["provisioner"].put(name, "x")


@pytest.mark.parametrize(
    "reference", ["", "secret://a", "secret://a/b", "secret://a/../b?v=1", "secret://a/b?v=0", "file:///x"]
)
async def test_a_malformed_reference_is_refused(people, reference) -> None:
    with pytest.raises(SecretNotFoundError):
        await people["operator"].get(reference)


def test_a_box_opens_only_for_its_recipient_and_only_unaltered(tmp_path: Path) -> None:
    for name in ("alpha", "beta"):
        make_identity(tmp_path, name)
    alpha, beta = Identity.load(tmp_path, "alpha"), Identity.load(tmp_path, "beta")
    box = alpha.encrypt_for(b"hello", "beta")

    assert (box[:1], len(box)) == (b"\x02", 1 + 32 + len(b"hello") + 16)
    assert beta.decrypt(box) == b"hello"
    with pytest.raises(WrongRecipientError):
        alpha.decrypt(box)
    for place in (0, 1, 32, 33, len(box) - 1):
        altered = bytearray(box)
        altered[place] ^= 1
        with pytest.raises(WrongRecipientError):
            beta.decrypt(bytes(altered))


OLD_KEY = bytes(range(32))
OLD_BOXES = (
    "9ChSZ4/6a6uYXmHpOiC9qew1bXhSTugRpayyeSZEXUJk8o7pPnl2gEYqWIt+gZ5jM5DrrI73/NeInwZBALgowFBVXFKbWhpWXHk9",
    "Ag7T3PqpCi12HLJuiG2w/5z+BQ9D39Le8REfbFPp1TG3n817pa7IJpFo9NHwtBnh5zAbD+MFoFGnwEMKYb16MkZF/ramULr1aOqm",
)
"""Sealed `a data key as it was stored` for `billing`, whose private key is OLD_KEY, by the version before HPKE.

The second one starts with the version byte of HPKE by chance, as one of 256 does.
"""


@pytest.mark.parametrize("box", OLD_BOXES)
def test_a_box_of_the_version_before_hpke_opens(tmp_path: Path, box: str) -> None:
    (tmp_path / "billing.key").write_bytes(OLD_KEY)

    assert Identity.load(tmp_path, "billing").decrypt(b64decode(box)) == b"a data key as it was stored"


def test_sealed_values_are_hpke_as_in_rfc_9180() -> None:
    """Uses the test vector A.2.1. Our library passes no additional data, so the last step is repeated without them."""
    private = "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb"
    encapsulated = "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"
    cipher = ChaCha20Poly1305(bytes.fromhex("ad2744de8e17f4ebba575b3f5f5a8fa1f69c2a07f6e7500bc60ca6e3e3ec1c91"))
    nonce = bytes.fromhex("5c4d98150661b848853b547f")
    plain = b"Beauty is truth, truth beauty"
    sealed = "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"

    opened = SUITE.decrypt(
        bytes.fromhex(encapsulated) + cipher.encrypt(nonce, plain, None),
        X25519PrivateKey.from_private_bytes(bytes.fromhex(private)),
        b"Ode on a Grecian Urn",
    )

    assert cipher.encrypt(nonce, plain, b"Count-0").hex() == sealed
    assert opened == plain


def test_an_identity_is_created_once_and_its_public_key_is_restored(tmp_path: Path) -> None:
    make_identity(tmp_path, "alpha")
    private = (tmp_path / "alpha.key").read_bytes()
    public = (tmp_path / "alpha.pub").read_bytes()
    (tmp_path / "alpha.pub").unlink()

    make_identity(tmp_path, "alpha")

    assert ((tmp_path / "alpha.key").read_bytes(), (tmp_path / "alpha.pub").read_bytes()) == (private, public)
    assert stat.S_IMODE((tmp_path / "alpha.key").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alpha.key", "alpha.pub"]


def test_a_missing_identity_is_reported_with_the_command_that_creates_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"paybill_runtime\.security\.identity"):
        Identity.load(tmp_path, "nobody")
