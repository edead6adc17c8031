"""Secrets and identities: only the recipients of a secret can decrypt it."""

import asyncio
import stat
from pathlib import Path

import pytest
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

    assert beta.decrypt(box) == b"hello"
    with pytest.raises(WrongRecipientError):
        alpha.decrypt(box)
    for place in (0, 31, 32, len(box) - 1):
        altered = bytearray(box)
        altered[place] ^= 1
        with pytest.raises(WrongRecipientError):
            beta.decrypt(bytes(altered))


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
