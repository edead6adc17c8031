"""Port for secrets, and its implementation with files: encrypted for each recipient, one folder for each writer."""

import asyncio
import json
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paybill_contracts.errors import ForbiddenError, NotFoundError

from paybill_runtime.security.identity import Identity

_REF = re.compile(r"secret://([a-z][a-z0-9-]*)/([a-z0-9_\-]+(?:/[a-z0-9_\-]+)*)\?v=([1-9][0-9]{0,8})")
_NONCE = bytes(12)
"""A fixed nonce is safe: every version has a new key, stored beside it encrypted for each recipient."""
_LAST = ".last"
"""The file with the highest version of a deleted secret."""


class SecretNotFoundError(NotFoundError):
    """No secret has this name or version; it may be deleted."""

    code = "secret_not_found"


class SecretForbiddenError(ForbiddenError):
    """The secret was not encrypted for this service, or this writer does not own it."""

    code = "secret_forbidden"


class Secrets(Protocol):
    """Stores, reads and deletes secrets. Facts carry only the reference, `secret://<writer>/<name>?v=<n>`."""

    async def put(self, name: str, value: str, recipients: Sequence[str] = ()) -> str:
        """Stores a new version for the writer and `recipients`; returns its reference."""

    async def get(self, reference: str) -> str:
        """Returns the value. Raises SecretNotFoundError or SecretForbiddenError."""

    async def latest(self, name: str) -> str | None:
        """Returns the reference of the newest version of an own secret; None when there is none."""

    async def names(self, folder: str) -> list[str]:
        """Returns the names of the own secrets below `folder`, in order."""

    async def delete(self, name: str) -> None:
        """Destroys every version of an own secret. Idempotent."""


class FileSecrets:
    """Secrets in files below `directory`, 0600, as `<writer>/<name>/<version>`."""

    def __init__(self, directory: Path, identity: Identity) -> None:
        self._directory = directory
        self._identity = identity

    async def put(self, name: str, value: str, recipients: Sequence[str] = ()) -> str:
        """Stores a new version for the writer and `recipients`; returns its reference."""
        return await asyncio.to_thread(self._put, name, value, recipients)

    async def get(self, reference: str) -> str:
        """Returns the value. Raises SecretNotFoundError or SecretForbiddenError."""
        return await asyncio.to_thread(self.read, reference)

    async def latest(self, name: str) -> str | None:
        """Returns the reference of the newest version of an own secret; None when there is none."""
        versions = await asyncio.to_thread(self._versions, self._folder(self._identity.name, name))
        return self._reference(name, versions[-1]) if versions else None

    async def names(self, folder: str) -> list[str]:
        """Returns the names of the own secrets below `folder`, in order."""
        return await asyncio.to_thread(self._names, folder)

    async def delete(self, name: str) -> None:
        """Destroys every version of an own secret. Idempotent."""
        await asyncio.to_thread(self._delete, self._folder(self._identity.name, name))

    def read(self, reference: str) -> str:
        """Returns the value, like `get`, for callers without an event loop."""
        match = _REF.fullmatch(reference)
        if match is None:
            raise SecretNotFoundError("this is not a reference of a secret; the form is secret://writer/name?v=1")
        path = self._folder(match[1], match[2]) / match[3]
        try:
            stored = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise SecretNotFoundError(f"{reference} does not exist; it may be deleted") from error
        wrapped = stored["keys"].get(self._identity.name)
        if wrapped is None:
            raise SecretForbiddenError(f"{reference} was not granted to {self._identity.name}")
        key = self._identity.decrypt(b64decode(wrapped))
        return AESGCM(key).decrypt(_NONCE, b64decode(stored["sealed"]), reference.encode()).decode()

    def _put(self, name: str, value: str, recipients: Sequence[str]) -> str:
        folder = self._folder(self._identity.name, name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        version = self._last(folder) + 1
        while True:
            key = AESGCM.generate_key(256)
            keys = {
                recipient: b64encode(self._identity.encrypt_for(key, recipient)).decode()
                for recipient in {self._identity.name, *recipients}
            }
            reference = self._reference(name, version)
            sealed = b64encode(AESGCM(key).encrypt(_NONCE, value.encode(), reference.encode())).decode()
            if self._write(folder, version, json.dumps({"keys": keys, "sealed": sealed}).encode()):
                return reference
            version += 1

    @staticmethod
    def _write(folder: Path, version: int, content: bytes) -> bool:
        """Stores a version durably and atomically; returns False when another process stored it first."""
        temporary = folder / f".{version}.{token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, folder / str(version))
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        return True

    def _folder(self, writer: str, name: str) -> Path:
        if re.fullmatch(r"[a-z0-9_\-]+(/[a-z0-9_\-]+)*", name) is None or len(name) > 180:  # noqa: PLR2004  # file names end at 255
            raise SecretNotFoundError(
                "the name of a secret is lower-case letters, digits, dashes and slashes, at most 180"
            )
        return self._directory / writer / name

    def _reference(self, name: str, version: int) -> str:
        return f"secret://{self._identity.name}/{name}?v={version}"

    @staticmethod
    def _versions(folder: Path) -> list[int]:
        if not folder.is_dir():
            return []
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())

    def _names(self, folder: str) -> list[str]:
        base, found = self._directory / self._identity.name, self._folder(self._identity.name, folder)
        versions = (path for path in found.rglob("*") if path.name.isdigit() and path.is_file())
        return sorted({path.parent.relative_to(base).as_posix() for path in versions})

    def _last(self, folder: Path) -> int:
        """Returns the highest version ever: a reference in the log must never come to mean another value."""
        last = folder / _LAST
        return max([int(last.read_text()) if last.is_file() else 0, *self._versions(folder)])

    def _delete(self, folder: Path) -> None:
        versions = self._versions(folder)
        if versions:
            draft = folder / f".{token_hex(8)}"
            draft.write_text(str(self._last(folder)))
            draft.replace(folder / _LAST)
        for version in versions:
            path = folder / str(version)
            path.write_bytes(bytes(path.stat().st_size))
            path.unlink()
