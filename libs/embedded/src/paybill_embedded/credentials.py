"""Passwords of the embedded servers: random, in one file each, readable by the owner alone."""

import os
import re
import secrets
from pathlib import Path

from paybill_embedded.errors import writing
from paybill_embedded.lock import sole_writer

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_APART = {"nats-steward": "steward"}
"""Folders of passwords that no service and no client needs: the steward may change streams."""


def password_file(data_dir: Path, name: str) -> Path:
    """Returns the path of the password of `name`, such as `nats-billing` or `pg-tenant`."""
    if not _NAME.fullmatch(name):
        msg = f"{name!r} is not a name of a password file: use lower-case letters, digits, - and _"
        raise ValueError(msg)
    return data_dir / _APART.get(name, "credentials") / name


def password(data_dir: Path, name: str) -> str:
    """Returns the password of `name`, created on first use: 43 characters of base64url, 256 bits.

    Processes that create it at the same time get the same one.
    """
    path = password_file(data_dir, name)
    try:
        return _read(path)
    except FileNotFoundError:
        private_dir(path.parent)
    with sole_writer(path.parent):
        try:
            return _read(path)
        except FileNotFoundError:
            if (beside := data_dir / "credentials" / name).exists():  # where earlier versions wrote it
                beside.replace(path)
                return _read(path)
            secret = secrets.token_urlsafe(32)
            write_private(path, secret + "\n")
            return secret


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


def private_dir(path: Path) -> Path:
    """Creates `path` as a folder for its owner alone; the mode of an existing one is restricted."""
    with writing(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Replaces `path` (0600) atomically: a crash leaves the old file or the new one."""
    draft = path.with_name(path.name + ".draft")
    with writing(path.parent):
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
