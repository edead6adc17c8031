"""Signing: the private halves of licence keys, which never leave the secret store but to sign."""

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
    """The private half of a key cannot be had. The message says what to do."""

    def __init__(self, kid: str, why: str) -> None:
        super().__init__(
            f"the private half of the licence key {kid} cannot be read from the secret store ({why}): restore the "
            "store from its backup, or have another key made: paybill licence rotate-keys; what this one has signed "
            "stays valid until it ends"
        )


@dataclass(frozen=True, slots=True)
class GeneratedKey:
    """A new key: its id, its public half, and where the private one is."""

    kid: str
    public_key: str
    secret: str


class SigningKeys:
    """Makes keys, signs with them and destroys them (Ed25519, RFC 8032)."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    async def make(self, name: str) -> GeneratedKey:
        """The key of this name; made when it is not there, so that another attempt finds the same."""
        reference = await self._secrets.latest(name)
        if reference is None:
            private = Ed25519PrivateKey.generate()
            reference = await self._secrets.put(name, b64encode(private.private_bytes_raw()).decode())
        else:
            private = _private(await self._secrets.get(reference))
        public = private.public_key().public_bytes_raw()
        return GeneratedKey(key_id(public), base64url(public), reference)

    async def sign(self, kid: str, reference: str, message: bytes) -> str:
        """The signature, as base64url. Raises LostKeyError."""
        try:
            private = _private(await self._secrets.get(reference))
        except (DomainError, WrongRecipientError, InvalidTag, ValueError, LookupError, OSError) as error:
            raise LostKeyError(kid, getattr(error, "code", type(error).__name__)) from error
        if key_id(private.public_key().public_bytes_raw()) != kid:
            raise LostKeyError(kid, "it is another key")
        return base64url(private.sign(message))

    async def destroy(self, reference: str) -> None:
        """Nobody signs with this key any more; doing it twice is no error."""
        match = _NAME.fullmatch(reference)
        if match is not None:
            await self._secrets.delete(match[1])


@dataclass(frozen=True, slots=True)
class ExternalSystems(Providers):
    """All that effects reach: the providers, and the keys that sign licences."""

    keys: SigningKeys


def _private(value: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(b64decode(value))
