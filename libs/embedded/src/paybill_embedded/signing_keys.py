"""Signing keys of a new installation: the steward's root key, and the first key of each service with its certificate.

The form of a certificate is that of `paybill_contracts.signing_keys`, which this package does not import.
"""

import json
import struct
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from paybill_embedded.credentials import private_dir
from paybill_embedded.lock import sole_writer

ROOT_KEY = "signing-root.key"
ROOT_PUBLIC = "signing-root.pub"
_KEY_ID_BYTES = 12


def make_root(folder: Path) -> Ed25519PrivateKey:
    """Returns the root key of `folder` (32 raw bytes, mode 0600), created at first use."""
    path = private_dir(folder) / ROOT_KEY
    with sole_writer(folder):
        if not path.exists():
            _write(path, Ed25519PrivateKey.generate().private_bytes_raw())
    return Ed25519PrivateKey.from_private_bytes(path.read_bytes())


def make_signing_key(folder: Path, service: str, root: Ed25519PrivateKey) -> None:
    """Creates `<service>.signing-key`, certified by the root key, and `signing-root.pub`; an existing key stays."""
    path = folder / f"{service}.signing-key"
    with sole_writer(folder):
        if not path.exists():
            _write(path, _first_key(service, root))
        _write(folder / ROOT_PUBLIC, root.public_key().public_bytes_raw())


def _first_key(service: str, root: Ed25519PrivateKey) -> bytes:
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    certified = {
        "key_id": _text(sha256(b"paybill signing key\0" + public).digest()[:_KEY_ID_BYTES]),
        "public_key": _text(public),
        "number": 1,
        "valid_since": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "replaces": None,
        "issuer": "root",
    }
    values = [service, *("" if value is None else str(value) for value in certified.values())]
    parts = [value.encode() for value in values]
    text = b"paybill signing key v1\0" + struct.pack(f">{len(parts)}I", *map(len, parts)) + b"".join(parts)
    fields = certified | {"certificate": _text(root.sign(text)), "private_key": _text(private.private_bytes_raw())}
    return json.dumps(fields).encode() + b"\n"


def _text(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_bytes(content)
    draft.replace(path)
