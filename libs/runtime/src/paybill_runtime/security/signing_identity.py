"""Signing identity of a service: the Ed25519 key of its facts, with a certificate, and the steward's public root key.

The folder of identities holds `<name>.signing-key` of the service and `signing-root.pub`. The private half of the root
key is elsewhere, as `signing-root.key`: whoever has it can make keys for every service.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paybill_contracts import signatures
from paybill_contracts.event import canonical
from paybill_contracts.operations import service_event
from paybill_contracts.signing_keys import (
    PUBLISHED,
    ROOT,
    WITHDRAWN,
    SigningKeyPublished,
    SigningKeyWithdrawn,
    certify,
    is_certified,
)

from paybill_runtime.errors import ConfigurationError

_UNSIGNED = "A" * 86


@dataclass(frozen=True, slots=True)
class SigningIdentity:
    """The key that a service signs with.

    announcement: the fact that makes it known, with its certificate. withdrawals: the facts that end earlier keys.
    """

    private: Ed25519PrivateKey
    announcement: SigningKeyPublished
    withdrawals: tuple[SigningKeyWithdrawn, ...] = ()

    @classmethod
    def load(cls, directory: Path, name: str) -> "SigningIdentity":
        """Reads `<name>.signing-key`. Raises ConfigurationError when it is missing or malformed."""
        path = directory / f"{name}.signing-key"
        try:
            fields = orjson.loads(path.read_bytes())
            private = Ed25519PrivateKey.from_private_bytes(signatures.decoded(fields.pop("private_key")))
            withdrawn = service_event(name, SigningKeyWithdrawn)
            withdrawals = tuple(
                withdrawn.model_validate_json(canonical(each)) for each in fields.pop("withdrawals", ())
            )
            announcement = service_event(name, SigningKeyPublished).model_validate_json(canonical(fields))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ConfigurationError(
                f"the signing key {path.name} cannot be read; copy it here from the steward (docs/signing-keys.md)"
            ) from error
        if signatures.key_id(_public(private)) != announcement.key_id:
            raise ConfigurationError(f"the signing key {path.name} has the certificate of another key")
        if announcement.issuer == ROOT and not is_certified(load_root(directory), name, announcement):
            raise ConfigurationError(f"the signing key {path.name} is not certified by the root key in its folder")
        return cls(private, announcement, withdrawals)

    def sign(self, leaves: Sequence[bytes]) -> list[str]:
        """Returns the header `pb-sig` of each fact; leaves: as of `leaf_of`."""
        return signatures.sign(self.private, self.announcement.key_id, leaves)

    def file(self) -> bytes:
        """Returns the content of the file that `load` reads."""
        fields = self.announcement.model_dump(mode="json")
        fields["private_key"] = signatures.encoded(self.private.private_bytes_raw())
        if self.withdrawals:
            fields["withdrawals"] = [each.model_dump(mode="json") for each in self.withdrawals]
        return canonical(fields) + b"\n"

    def withdraw(self, name: str, id_: str, reason: str, root: Ed25519PrivateKey, now: datetime) -> "SigningIdentity":
        """Returns this key with the withdrawal of an earlier one, which the root key certifies."""
        withdrawal = service_event(name, SigningKeyWithdrawn)(
            key_id=id_, reason=reason, withdrawn_at=now, issuer=ROOT, certificate=_UNSIGNED
        )
        certificate = certify(root, WITHDRAWN, name, withdrawal.model_dump(mode="json"))
        withdrawal = withdrawal.model_copy(update={"certificate": certificate})
        return replace(self, withdrawals=(*self.withdrawals, withdrawal))


def load_root(directory: Path) -> bytes:
    """Returns the steward's public root key, 32 bytes. Raises ConfigurationError when it is missing or malformed."""
    path = directory / "signing-root.pub"
    try:
        root = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the root key {path.name} cannot be read; copy it here from the steward") from error
    if len(root) != signatures.PUBLIC_KEY_BYTES:
        raise ConfigurationError(f"the root key {path.name} has {len(root)} bytes, not {signatures.PUBLIC_KEY_BYTES}")
    return root


def certified(
    name: str,
    private: Ed25519PrivateKey,
    issuer: Ed25519PrivateKey,
    *,
    number: int = 1,
    replaces: str | None = None,
    issuer_id: str = ROOT,
    now: datetime | None = None,
) -> SigningIdentity:
    """Returns a key of a service with the certificate of `issuer`: of the root key, or of the key that it replaces."""
    public = _public(private)
    announcement = service_event(name, SigningKeyPublished)(
        key_id=signatures.key_id(public),
        public_key=signatures.encoded(public),
        number=number,
        valid_since=now or datetime.now(UTC),
        replaces=replaces,
        issuer=issuer_id,
        certificate=_UNSIGNED,
    )
    certificate = certify(issuer, PUBLISHED, name, announcement.model_dump(mode="json"))
    return SigningIdentity(private, announcement.model_copy(update={"certificate": certificate}))


def _public(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()
