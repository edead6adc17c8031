"""Any message may come over the wire, also one that nats-py cannot read; it must not silence the connection."""

from functools import lru_cache
from types import MethodType

from nats.aio.client import Client


def survive_any_message(client: Client) -> None:
    """Have `client` deliver what it cannot decode: the subject escaped, without headers.

    nats-py ends its reading for good when a subject is not UTF-8 (the server lets any bytes pass), and notices minutes
    later. Its own reading of headers looks at every character of every name, and was a tenth of what a fact costs; ours
    means the same. Both ride on private methods; `test_wire.py` is the contract with them.
    """
    process = client._process_msg  # noqa: SLF001  # the point of this module

    async def forgiving(_: Client, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            subject.decode()
            await process(sid, subject, reply, data, headers)
        except (UnicodeDecodeError, IndexError):
            readable = subject.decode("utf-8", "backslashreplace").encode()
            await process(sid, readable, reply, data, b"")

    client._parse_header_lines = header_lines  # type: ignore[method-assign]  # noqa: SLF001  # as above
    client._process_msg = MethodType(forgiving, client)  # type: ignore[method-assign]  # noqa: SLF001  # as above


def header_lines(raw: bytes) -> dict[str, str]:
    """Headers from `Name: Value` lines: what has no name, or a name that is none, is left out."""
    headers: dict[str, str] = {}
    for line in raw.split(b"\r\n"):
        before, colon, value = line.partition(b":")
        name = (_known(before) if len(before) <= _SHORT else _name(before)) if colon else None
        if name is not None:
            headers[name] = value.strip().decode("utf-8", "replace")
    return headers


_SHORT = 64
"""Bytes of a name that is worth remembering; what strangers send can be as long as a message."""


def _name(raw: bytes) -> str | None:
    stripped = raw.strip()
    if not stripped.isascii():
        return None
    name = stripped.decode("ascii")
    return None if any(map(str.isspace, name)) else name


_known = lru_cache(maxsize=256)(_name)
