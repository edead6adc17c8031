"""Any message may come over the wire, also one that nats-py cannot read; it must not silence the connection."""

from types import MethodType

from nats.aio.client import Client


def survive_any_message(client: Client) -> None:
    """Have `client` deliver what it cannot decode: the subject escaped, without headers.

    nats-py ends its reading for good when a subject is not UTF-8 (the server lets any bytes pass), and notices minutes
    later. It rides on one private method; `test_wire.py` is the contract with it.
    """
    process = client._process_msg  # noqa: SLF001  # the point of this module

    async def forgiving(_: Client, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            subject.decode()
            await process(sid, subject, reply, data, headers)
        except (UnicodeDecodeError, IndexError):
            readable = subject.decode("utf-8", "backslashreplace").encode()
            await process(sid, readable, reply, data, b"")

    client._process_msg = MethodType(forgiving, client)  # type: ignore[method-assign]  # noqa: SLF001  # as above
