"""What nats-py does character by character, done a message at a time; and any message survived, also an unreadable one.

All of this rides on private methods of its client; `test_nats_patches.py` is the contract with them.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MethodType

from nats.aio.client import Client
from nats.errors import ConnectionClosedError


def tolerate_malformed_messages(client: Client) -> None:
    """Have `client` deliver what it cannot decode: the subject escaped, without headers.

    nats-py ends its reading for good when a subject is not UTF-8 (the server lets any bytes pass), and notices minutes
    later. Its own reading of headers looks at every character of every name, and was a tenth of what a fact costs; ours
    means the same.
    """
    process = client._process_msg  # noqa: SLF001  # the point of this module

    async def forgiving(_: Client, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            subject.decode()
            await process(sid, subject, reply, data, headers)
        except (UnicodeDecodeError, IndexError):
            readable = subject.decode("utf-8", "backslashreplace").encode()
            await process(sid, readable, reply, data, b"")

    client._parse_header_lines = parse_headers  # type: ignore[method-assign]  # noqa: SLF001  # as above
    client._process_msg = MethodType(forgiving, client)  # type: ignore[method-assign]  # noqa: SLF001  # as above


def parse_headers(raw: bytes) -> dict[str, str]:
    """Headers from `Name: Value` lines: what has no name, or a name that is none, is left out."""
    headers: dict[str, str] = {}
    for line in raw.decode("utf-8", "replace").split("\r\n"):
        before, colon, value = line.partition(":")
        name = (_known(before) if len(before) <= _SHORT else _name(before)) if colon else None
        if name is not None:
            headers[name] = value.strip()
    return headers


_SHORT = 64
"""Characters of a name that is worth remembering; what strangers send can be as long as a message."""


def _name(raw: str) -> str | None:
    name = raw.strip()
    return name if name.isascii() and not any(map(str.isspace, name)) else None


_known = lru_cache(maxsize=256)(_name)


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Headers as they go over the wire, for `publish_all`. Names are ours; a line break in a value becomes a space."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    block = "\r\n".join(lines)
    if block.count("\n") >= len(lines) or block.count("\r") >= len(lines):
        block = "\r\n".join(line.translate(_ONE_LINE) for line in lines)
    return f"NATS/1.0\r\n{block}\r\n\r\n".encode()


_ONE_LINE = {ord("\r"): " ", ord("\n"): " "}


async def publish_batch(client: Client, messages: Iterable[tuple[str, bytes, bytes]]) -> None:
    """Publish many (subject, header block, payload) at once; they go in order. Nothing says that they have arrived.

    nats-py writes each header through a regular expression: that was a tenth of what a fact costs.
    """
    commands = [
        b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), len(block), len(block) + len(payload), block, payload)
        for subject, block, payload in messages
    ]
    if client.is_closed:
        raise ConnectionClosedError
    client.stats["out_msgs"] += len(commands)
    await client._send_command(b"".join(commands))  # noqa: SLF001  # the point of this module
    await client._flush_pending()  # noqa: SLF001  # as above
