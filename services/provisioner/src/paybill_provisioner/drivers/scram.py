"""Password verifiers, computed here so that no clear password is ever in a statement, a log or a replica of either."""

import asyncio
import hashlib
import hmac
import secrets
from base64 import b64encode
from dataclasses import dataclass
from typing import Self

ITERATIONS = 4096
"""PostgreSQL's default. It slows down guessing; our passwords are 256 random bits, which nobody guesses.

Fewer would save the server most of what a new role costs it, but RFC 7677 asks for so many, and JDBC insists on them.
"""


def new_password() -> str:
    """256 random bits as text that SASLprep (RFC 4013) leaves as it is."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Login:
    """A password, and what PostgreSQL keeps of it."""

    password: str
    verifier: str

    @classmethod
    async def of(cls, password: str) -> Self:
        """With a salt of its own. A millisecond of hashing, in a thread: others go on meanwhile."""
        return cls(password, await asyncio.to_thread(verifier, password, secrets.token_bytes(16)))


class Logins:
    """New logins, of which one is made ahead, so that a tenant who comes alone need not wait for the hashing."""

    def __init__(self) -> None:
        self._next: asyncio.Task[Login] | None = None

    async def new(self) -> Login:
        """One that nobody else is given."""
        ready, self._next = self._next, None
        return await (ready or Login.of(new_password()))

    def prepare(self) -> None:
        """Make the next one now."""
        if self._next is None:
            self._next = asyncio.create_task(Login.of(new_password()))

    async def close(self) -> None:
        """Wait for what is being made."""
        await asyncio.gather(*filter(None, [self._next]))


def verifier(password: str, salt: bytes) -> str:
    """What PostgreSQL keeps of `password`: `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>` (RFC 5803).

    password: printable ASCII, because others would need SASLprep. salt: 16 fresh random bytes.
    """
    if not (password.isascii() and password.isprintable()):
        raise ValueError("a password is printable ASCII here")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${ITERATIONS}:{salt64}${stored64}:{server64}"
