"""Corrections of nats-py: it continues after messages that it cannot decode, and processes headers a message at a time.

This is the only module that uses private methods of its client; `test_nats_patches.py` is the contract with them. Each
use has a report upstream:

- `_process_msg`: an exception there ends the reading loop without a reconnect, https://github.com/nats-io/nats.py/pull/914
- `_parse_header_lines`: it came with https://github.com/nats-io/nats.py/pull/928; the cost of headers is the subject of
  https://github.com/nats-io/nats.py/pull/431
- `_send_command`, `_flush_pending`: `publish` checks every header by a regular expression since
  https://github.com/nats-io/nats.py/pull/1017
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MethodType

from nats.aio.client import Client
from nats.errors import ConnectionClosedError


def tolerate_malformed_messages(client: Client) -> None:
    """Makes `client` deliver messages that it cannot decode: with an escaped subject, without headers.

    nats-py stops reading permanently when a subject is not UTF-8 (the server accepts any bytes), and notices minutes
    later. Its parser of headers inspects every character of every name, which was a tenth of the cost of a fact; ours
    gives the same result.
    """
    process = client._process_msg  # noqa: SLF001  # the purpose of this module

    async def tolerant(_: Client, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            subject.decode()
            await process(sid, subject, reply, data, headers)
        except (UnicodeDecodeError, IndexError):
            readable = subject.decode("utf-8", "backslashreplace").encode()
            await process(sid, readable, reply, data, b"")

    client._parse_header_lines = parse_headers  # type: ignore[method-assign]  # noqa: SLF001  # as above
    client._process_msg = MethodType(tolerant, client)  # type: ignore[method-assign]  # noqa: SLF001  # as above


def parse_headers(raw: bytes) -> dict[str, str]:
    """Parses `Name: Value` lines; lines without a valid name are skipped."""
    headers: dict[str, str] = {}
    for line in raw.decode("utf-8", "replace").split("\r\n"):
        before, colon, value = line.partition(":")
        name = (_cached(before) if len(before) <= _SHORT else _name(before)) if colon else None
        if name is not None:
            headers[name] = value.strip()
    return headers


_SHORT = 64
"""Characters of a name that is cached; names of other systems can be as long as a message."""


def _name(raw: str) -> str | None:
    name = raw.strip()
    return name if name.isascii() and not any(map(str.isspace, name)) else None


_cached = lru_cache(maxsize=256)(_name)


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Returns headers in wire format, for `publish_batch`. A line break in a value becomes a space."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    block = "\r\n".join(lines)
    if block.count("\n") >= len(lines) or block.count("\r") >= len(lines):
        block = "\r\n".join(line.translate(_ONE_LINE) for line in lines)
    return f"NATS/1.0\r\n{block}\r\n\r\n".encode()


_ONE_LINE = {ord("\r"): " ", ord("\n"): " "}


async def publish_batch(client: Client, messages: Iterable[tuple[str, bytes, bytes]]) -> None:
    """Publishes many (subject, header block, payload) at once and in order, without confirmation.

    nats-py checks each header by a regular expression, which was a tenth of the cost of a fact.
    """
    commands = [
        b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), len(block), len(block) + len(payload), block, payload)
        for subject, block, payload in messages
    ]
    if client.is_closed:
        raise ConnectionClosedError
    client.stats["out_msgs"] += len(commands)
    await client._send_command(b"".join(commands))  # noqa: SLF001  # the purpose of this module
    await client._flush_pending()  # noqa: SLF001  # as above
