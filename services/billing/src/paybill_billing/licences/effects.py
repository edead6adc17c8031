"""Signs with private licence keys, which are read from the secret store only to sign."""

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paybill_contracts.errors import DomainError
from paybill_licence import base64url, key_id
from paybill_runtime.security.identity import WrongRecipientError
from paybill_runtime.security.secrets import Secrets

from paybill_billing.providers.port import Providers

_NAME = re.compile(r"secret://[^/]+/(.+)\?v=\d+")


class LostKeyError(Exception):
    """The private key cannot be read. The message names the remedies."""

    def __init__(self, kid: str, why: str) -> None:
        super().__init__(
            f"the private half of the licence key {kid} cannot be read from the secret store ({why}): restore the "
            "store from its backup, or create another key: paybill licence rotate-keys; licences signed with this key "
            "stay valid until they expire"
        )


@dataclass(frozen=True, slots=True)
class GeneratedKey:
    """A new key: its id, its public half, and the secret reference of its private half."""

    kid: str
    public_key: str
    secret: str


class SigningKeys:
    """Generates Ed25519 keys, signs with them and destroys them (RFC 8032)."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    async def generate(self, name: str) -> GeneratedKey:
        """Returns the key of this name, generated if it does not exist. Idempotent."""
        reference = await self._secrets.latest(name)
        if reference is None:
            private = Ed25519PrivateKey.generate()
            reference = await self._secrets.put(name, b64encode(private.private_bytes_raw()).decode())
        else:
            private = _private(await self._secrets.get(reference))
        public = private.public_key().public_bytes_raw()
        return GeneratedKey(key_id(public), base64url(public), reference)

    async def sign(self, kid: str, reference: str, message: bytes) -> str:
        """Returns the signature in base64url. Raises LostKeyError."""
        try:
            private = _private(await self._secrets.get(reference))
        except (DomainError, WrongRecipientError, InvalidTag, ValueError, LookupError, OSError) as error:
            raise LostKeyError(kid, getattr(error, "code", type(error).__name__)) from error
        if key_id(private.public_key().public_bytes_raw()) != kid:
            raise LostKeyError(kid, "the store holds a different key")
        return base64url(private.sign(message))

    async def destroy(self, reference: str) -> None:
        """Deletes the private half. Idempotent."""
        match = _NAME.fullmatch(reference)
        if match is not None:
            await self._secrets.delete(match[1])


@dataclass(frozen=True, slots=True)
class ExternalSystems(Providers):
    """The dependencies of effects: the providers and the signing keys."""

    keys: SigningKeys


def _private(value: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(b64decode(value))
