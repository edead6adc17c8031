"""Load generator for a webhook endpoint, Paybill's or the peer's: a separate process, so that it costs both the same.

All requests are signed before the first is sent. Each connection sends the next request after each response.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from paybill_stripe_fake.sender import signature_header
from typing_extensions import override

from paybill_bench.servers import BenchmarkError, percentile

UNTIMED = 10
"""The first tenth is not timed: connections, prepared statements, the first page of a table."""
_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Result of a load. Rate and latencies count only responses that acknowledge the message."""

    per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """Port of a webhook endpoint, and the file with its signing secret."""

    port: int
    secret: Path


def signed(body: str, secret: str) -> bytes:
    """Returns the whole HTTP request with one webhook, signed now."""
    signature = signature_header(body, (secret,), int(time.time()))
    content = body.encode()
    head = (
        "POST /webhooks/stripe HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Stripe-Signature: {signature}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def send_load(endpoint: WebhookEndpoint, bodies: Path, connections: int) -> LoadResult:
    """Sends every line of `bodies` from a separate process, and waits for its end."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "paybill_bench.load_generator",
            str(endpoint.port),
            str(endpoint.secret),
            str(bodies),
            str(connections),
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode:
        raise BenchmarkError(f"webhooks were not accepted: {errors.decode(errors='replace').strip()[-300:]}")
    return LoadResult(**json.loads(output))


class _Sender(asyncio.Protocol):
    """One connection: sends the next request when the last one is answered."""

    def __init__(
        self, requests: Iterator[bytes], acknowledged: list[tuple[float, float]], refused: list[bytes]
    ) -> None:
        self._requests = requests
        self._acknowledged = acknowledged
        self._refused = refused
        self._received = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport
        self.done = asyncio.get_running_loop().create_future()

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # the transport of TCP
        self._transport = transport
        self._next()

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_END)
        if not end or len(body) < _length(head):
            return
        now = time.perf_counter()
        if head.startswith(b"HTTP/1.1 200 "):
            self._acknowledged.append((now, now - self._sent_at))
        else:
            self._refused.append(self._received)
        self._received = b""
        self._next()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the server closed a connection"))

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


def _length(head: bytes) -> int:
    """Returns the length of the body that follows this head."""
    fields = head.lower() + b"\r\n"
    start = fields.index(b"\r\ncontent-length:") + len(b"\r\ncontent-length:")
    return int(fields[start : fields.index(b"\r\n", start)])


async def _send(port: int, requests: Sequence[bytes], connections: int) -> LoadResult:
    acknowledged: list[tuple[float, float]] = []
    refused: list[bytes] = []
    left = iter(requests)
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Sender(left, acknowledged, refused), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(sender.done for _, sender in made))
    if refused:
        sys.exit(f"{len(refused)} of {len(requests)} were refused: {refused[0].decode(errors='replace')[-300:]}")
    timed = acknowledged[len(acknowledged) // UNTIMED :]
    took = sorted(each * 1000 for _, each in timed)
    return LoadResult((len(timed) - 1) / (timed[-1][0] - timed[0][0]), percentile(took, 0.5), percentile(took, 0.99))


def _main(port: str, secret: str, bodies: str, connections: str) -> None:
    key = Path(secret).read_text(encoding="utf-8").strip()
    requests = [signed(body, key) for body in Path(bodies).read_text(encoding="utf-8").splitlines()]
    sys.stdout.write(json.dumps(asdict(asyncio.run(_send(int(port), requests, int(connections))))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
