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
from paybill_contracts.key_copies import SUITE, VERSION, decrypt, info
from paybill_contracts.personal import UnsealingError

from paybill_runtime.errors import ConfigurationError

_V1_PUBLIC_BYTES = 32
_V1_NONCE = bytes(12)


class WrongRecipientError(Exception):
    """The value was encrypted for another recipient, or altered."""


def encrypt(value: bytes, public: bytes, recipient: str) -> bytes:
    """Returns `value` encrypted for the owner of a public key (32 raw bytes). Raises ValueError for an unusable key."""
    return VERSION + SUITE.encrypt(value, X25519PublicKey.from_public_bytes(public), info(recipient))


def _decrypt_v1(sealed: bytes, private: X25519PrivateKey, recipient: str) -> bytes:
    """Decrypts a value that a release before HPKE sealed. Raises InvalidTag or ValueError."""
    ephemeral = sealed[:_V1_PUBLIC_BYTES]
    shared = private.exchange(X25519PublicKey.from_public_bytes(ephemeral))
    info = b"paybill-box-v1" + ephemeral + private.public_key().public_bytes_raw()
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(shared)
    return AESGCM(key).decrypt(_V1_NONCE, sealed[_V1_PUBLIC_BYTES:], recipient.encode())


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
        return encrypt(value, public, recipient)

    def decrypt(self, sealed: bytes) -> bytes:
        """Returns the value that was encrypted for this service. Raises WrongRecipientError."""
        if sealed.startswith(VERSION):
            # One of 256 values of version 1 starts with this byte too.
            with contextlib.suppress(UnsealingError):
                return decrypt(sealed, self.private, self.name)
        try:
            return _decrypt_v1(sealed, self.private, self.name)
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
