"""Password verifiers, computed here so that no clear password is ever in a statement, a log or a replica of either."""

import hashlib
import hmac
import secrets
from base64 import b64encode

ITERATIONS = 4096
"""PostgreSQL's default. It slows down guessing; our passwords are 256 random bits, which nobody guesses."""


def new_password() -> str:
    """256 random bits as text that SASLprep (RFC 4013) leaves as it is."""
    return secrets.token_urlsafe(32)


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
