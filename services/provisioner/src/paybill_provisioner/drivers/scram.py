"""SCRAM verifiers, computed here so that no plain password is in a statement, a log or a replica."""

import asyncio
import hashlib
import hmac
import secrets
from base64 import b64encode
from dataclasses import dataclass
from typing import Self

ITERATIONS = 4096
"""PostgreSQL's default. It slows down guessing; our passwords have 256 random bits.

Fewer iterations would save most of the cost of a new role, but RFC 7677 and JDBC require at least this number.
"""


def new_password() -> str:
    """Returns 256 random bits as text that SASLprep (RFC 4013) does not change."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A password and its SCRAM verifier, which PostgreSQL stores."""

    password: str
    verifier: str

    @classmethod
    async def of(cls, password: str) -> Self:
        """Computes the verifier with a new salt, in a thread: the hash takes a millisecond."""
        return cls(password, await asyncio.to_thread(verifier, password, secrets.token_bytes(16)))


class CredentialsFactory:
    """Creates credentials, with one verifier precomputed, so that a single tenant does not wait for the hash."""

    def __init__(self) -> None:
        self._next: asyncio.Task[Credentials] | None = None

    async def new(self) -> Credentials:
        """Returns credentials that no other call gets."""
        ready, self._next = self._next, None
        return await (ready or Credentials.of(new_password()))

    def precompute(self) -> None:
        """Starts the computation of the next credentials."""
        if self._next is None:
            self._next = asyncio.create_task(Credentials.of(new_password()))

    async def close(self) -> None:
        """Waits for a running computation."""
        await asyncio.gather(*filter(None, [self._next]))


def verifier(password: str, salt: bytes) -> str:
    """Returns the verifier `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>` of `password` (RFC 5803).

    password: printable ASCII, because other text needs SASLprep. salt: 16 fresh random bytes.
    """
    if not (password.isascii() and password.isprintable()):
        raise ValueError("a password must be printable ASCII")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${ITERATIONS}:{salt64}${stored64}:{server64}"
