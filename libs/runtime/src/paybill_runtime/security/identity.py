"""Identity of a service: an X25519 key pair, so that a value can be encrypted for named recipients only."""

import argparse
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from paybill_runtime.errors import ConfigurationError

_PUBLIC_BYTES = 32
_NONCE = bytes(12)
"""A fixed nonce is safe: every value has a new key from a new ephemeral pair (as in HPKE base mode, RFC 9180)."""


class WrongRecipientError(Exception):
    """The value was encrypted for another recipient, or altered."""


def _key(shared: bytes, ephemeral: bytes, public: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"paybill-box-v1" + ephemeral + public).derive(shared)


@dataclass(frozen=True)
class Identity:
    """The private key of a service, and the folder that holds all public keys as `<name>.pub`."""

    name: str
    private: X25519PrivateKey
    directory: Path

    @classmethod
    def load(cls, directory: Path, name: str) -> "Identity":
        """Reads `<name>.key` (32 raw bytes). Raises ConfigurationError when it is missing or malformed."""
        path = directory / f"{name}.key"
        try:
            return cls(name, X25519PrivateKey.from_private_bytes(path.read_bytes()), directory)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the identity {path.name} cannot be read; create it with `python -m paybill_runtime.security.identity`"
            ) from error

    def encrypt_for(self, value: bytes, recipient: str) -> bytes:
        """Returns `value` encrypted so that only `recipient` can decrypt it."""
        path = self.directory / f"{recipient}.pub"
        try:
            public = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"the public identity {path.name} is missing; copy it here from its owner"
            ) from error
        ephemeral = X25519PrivateKey.generate()
        own = ephemeral.public_key().public_bytes_raw()
        key = _key(ephemeral.exchange(X25519PublicKey.from_public_bytes(public)), own, public)
        return own + AESGCM(key).encrypt(_NONCE, value, recipient.encode())

    def decrypt(self, sealed: bytes) -> bytes:
        """Returns the value that was encrypted for this service. Raises WrongRecipientError."""
        ephemeral = sealed[:_PUBLIC_BYTES]
        public = self.private.public_key().public_bytes_raw()
        try:
            shared = self.private.exchange(X25519PublicKey.from_public_bytes(ephemeral))
            return AESGCM(_key(shared, ephemeral, public)).decrypt(_NONCE, sealed[_PUBLIC_BYTES:], self.name.encode())
        except (InvalidTag, ValueError) as error:
            raise WrongRecipientError(f"this value was not encrypted for {self.name}, or was altered") from error


def make_identity(directory: Path, name: str) -> None:
    """Creates the key pair of `name` in `directory`, the private half with mode 0600. Idempotent."""
    path = directory / f"{name}.key"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        # Atomic: a partly written key would be refused at every later start.
        draft = directory / f".{name}.key.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_bytes(X25519PrivateKey.generate().private_bytes_raw())
        with contextlib.suppress(FileExistsError):  # another process created it first: that one is used
            path.hardlink_to(draft)
        draft.unlink()
    public = Identity.load(directory, name).private.public_key().public_bytes_raw()
    (directory / f"{name}.pub").write_bytes(public)


def main() -> None:
    """Creates identities: `python -m paybill_runtime.security.identity DIR NAME…`."""
    parser = argparse.ArgumentParser(
        prog="python -m paybill_runtime.security.identity", description="Create identities."
    )
    parser.add_argument("directory", type=Path, help="folder for `<name>.key` and `<name>.pub`")
    parser.add_argument("names", nargs="+", metavar="name", help="name of a service or an operator")
    arguments = parser.parse_args()
    for name in arguments.names:
        make_identity(arguments.directory, name)


if __name__ == "__main__":
    main()
