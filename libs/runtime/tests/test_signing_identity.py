"""Signing identities: files that an installation makes are read, and certified as consumers expect."""

import json

import pytest
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_contracts.signatures import SIGNATURE_HEADER, leaf_of
from paybill_contracts.signing_keys import KnownKeys
from paybill_embedded.signing_keys import make_root, make_signing_key
from paybill_runtime.clock import new_id
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.security.signing_identity import SigningIdentity, load_root
from paybill_runtime.telemetry import child


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "identities"
    folder.mkdir()
    for name in ("tenant", "billing"):
        make_signing_key(folder, name, make_root(tmp_path / "steward"))
    return folder


def announced(identity):
    event = identity.announcement
    fact = Fact(event, new_id(), event.valid_since, 1, Origin("c", "c", "service:tenant", child("")))
    subject, headers, payload = subject_of(event), headers_of(fact), encode(event)
    return subject, headers | {SIGNATURE_HEADER: identity.sign([leaf_of(subject, headers, payload)])[0]}, payload


@pytest.mark.parametrize("name", ["tenant", "billing"])
def test_the_first_key_of_an_installation_is_certified(folder, name):
    identity = SigningIdentity.load(folder, name)

    assert KnownKeys(load_root(folder)).verify(*announced(identity), 1) is None


def test_keys_stay_when_an_installation_starts_again(folder, tmp_path):
    before = SigningIdentity.load(folder, "tenant")

    make_signing_key(folder, "tenant", make_root(tmp_path / "steward"))

    assert SigningIdentity.load(folder, "tenant").announcement == before.announcement
    assert (folder / "tenant.signing-key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "steward" / "signing-root.key").stat().st_mode & 0o777 == 0o600


def test_a_file_reads_as_it_was_written(folder):
    identity = SigningIdentity.load(folder, "tenant")
    (folder / "tenant.signing-key").write_bytes(identity.file())

    assert SigningIdentity.load(folder, "tenant").announcement == identity.announcement


def test_a_missing_or_malformed_key_is_explained(folder):
    path = folder / "tenant.signing-key"
    fields = json.loads(path.read_bytes())
    other = json.loads((folder / "billing.signing-key").read_bytes())

    path.write_text(json.dumps(fields | {"private_key": other["private_key"]}))
    with pytest.raises(ConfigurationError, match="certificate of another key"):
        SigningIdentity.load(folder, "tenant")
    path.write_text("{}")
    with pytest.raises(ConfigurationError, match=r"tenant\.signing-key cannot be read"):
        SigningIdentity.load(folder, "tenant")
    (folder / "signing-root.pub").write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="has 5 bytes, not 32"):
        load_root(folder)
    (folder / "signing-root.pub").unlink()
    with pytest.raises(ConfigurationError, match="copy it here from the steward"):
        load_root(folder)
