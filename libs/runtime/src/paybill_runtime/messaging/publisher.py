"""Publisher of observations to the intake, where the owner of the event type records or refuses them.

async with Publisher("nats://127.0.0.1:4222", "metering", password) as publisher:
    await publisher.publish(Usage(tenant_id=tenant, meter="calls", quantity=12, occurred_at=now))
"""

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from nats.aio.client import Client
from nats.errors import ConnectionClosedError, ConnectionReconnectingError, OutboundBufferLimitError
from nats.errors import Error as NatsError
from nats.js.errors import APIError, NoStreamResponseError
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from paybill_contracts.envelope import IntakeEvent, intake_headers, intake_subject, read_intake_event
from paybill_contracts.event import Event, encode

from paybill_runtime import clock
from paybill_runtime.telemetry import child

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 2.0

_TRY_AGAIN = (TimeoutError, ConnectionClosedError, ConnectionReconnectingError, OutboundBufferLimitError, OSError)


class PublishError(Exception):
    """The event was not stored. `code` is stable; `next_step` is an instruction for people."""

    code = "not_published"

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(f"{message}; {next_step}")
        self.message = message
        self.next_step = next_step


class NatsUnreachableError(PublishError):
    """NATS does not answer. Whether the event was stored is unknown: publish it again under the same id."""

    code = "nats_unreachable"


class PublishDeniedError(PublishError):
    """The credentials are wrong, or do not allow this publisher."""

    code = "publish_denied"


class PublishRefusedError(PublishError):
    """The intake refused the event: it is too large, or the intake is full."""

    code = "publish_refused"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The event is stored in the intake at `sequence`; `duplicate`: it was stored under this id before."""

    id: str
    sequence: int
    duplicate: bool


class Publisher:
    """A connection as the publisher `name` until the block ends; it reconnects by itself.

    url: of NATS. password: of the NATS user `name`.
    Entering raises NatsUnreachableError or PublishDeniedError.
    """

    def __init__(self, url: str, name: str, password: str) -> None:
        self._url = url
        self._name = name
        self._password = password
        self._client = Client()
        self._denied = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connects."""
        connecting = self._client.connect(
            self._url,
            user=self._name,
            password=self._password,
            inbox_prefix=f"_INBOX_{self._name}".encode(),
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            connect_timeout=2,
            error_cb=self._failed,
        )
        try:
            await self._unless_denied(connecting, CONNECT_TIMEOUT_S)
        except (TimeoutError, OSError, NatsError) as error:
            await self._client.close()
            raise self._unreachable() from error
        except PublishDeniedError:
            await self._client.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the connection; everything that was published is acknowledged."""
        with contextlib.suppress(OSError):  # the connection may be lost
            await self._client.close()

    async def publish(
        self,
        event: Event,
        *,
        id: str | None = None,  # the name in CloudEvents
        time: datetime | None = None,
        traceparent: str | None = None,
        timeout_s: float = 10.0,
    ) -> Receipt:
        """Stores `event` in the intake; returns when it is on disk.

        id: a UUID of the observation, by default a new UUIDv7; a retry under the same id counts once.
        time: of the observation (default: now). traceparent: of its cause (default: the current OpenTelemetry span).

        Raises InvalidEventError or MalformedFactError before anything is sent, PublishDeniedError, PublishRefusedError,
        NatsUnreachableError.
        """
        observation = IntakeEvent(
            event, id or clock.new_id(), self._name, time or clock.now(), child(traceparent or _current())
        )
        subject, headers, payload = intake_subject(self._name, event), intake_headers(observation), encode(event)
        # Parsed as the owner will parse it: an event that was built without validation is refused here.
        read_intake_event(subject, headers, payload)
        return await self._stored(subject, payload, headers, timeout_s)

    async def _stored(self, subject: str, payload: bytes, headers: dict[str, str], timeout_s: float) -> Receipt:
        """Publishes until it is confirmed: a repeated id is stored once."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                ack = await self._unless_denied(
                    self._client.jetstream().publish(subject, payload, timeout=ANSWER_TIMEOUT_S, headers=headers),
                    ANSWER_TIMEOUT_S,
                )
                return Receipt(headers["ce-id"], ack.seq, bool(ack.duplicate))
            except NoStreamResponseError as error:
                raise PublishRefusedError(
                    "there is no intake", "create the streams, or check the URL of NATS"
                ) from error
            except APIError as error:
                raise PublishRefusedError(
                    f"the intake refused it: {error.description}", "send less at once, or try again later"
                ) from error
            except _TRY_AGAIN as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise self._unreachable() from error
                await asyncio.sleep(0.1)
            except NatsError as error:
                raise PublishRefusedError(f"it cannot be sent: {error}", "check the log of NATS") from error

    async def _unless_denied(self, work: Any, timeout_s: float) -> Any:
        """Returns the result of `work`. Raises PublishDeniedError at once, where the client would only log it."""
        working = asyncio.ensure_future(work)
        denied = asyncio.ensure_future(self._denied.wait())
        try:
            await asyncio.wait({working, denied}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if denied.done():
                raise PublishDeniedError(
                    f"NATS at {self._url} denies this to {self._name}",
                    "check the name, the password, and that this publisher exists",
                )
            raise TimeoutError
        finally:
            for task in (working, denied):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, NatsError, OSError, TimeoutError):
                    await task

    async def _failed(self, error: Exception) -> None:
        message = str(error).lower()
        if "authorization" in message or "permissions violation" in message:
            self._denied.set()

    def _unreachable(self) -> NatsUnreachableError:
        return NatsUnreachableError(
            f"NATS does not answer at {self._url}",
            "check the URL and that it runs, then publish again under the same id",
        )


def _current() -> str | None:
    """Returns the traceparent of the current span, if there is one."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def publish(event: Event, *, url: str, name: str, password: str) -> Receipt:
    """Publishes one event from synchronous code. Raises the errors of `Publisher`."""

    async def once() -> Receipt:
        async with Publisher(url, name, password) as publisher:
            return await publisher.publish(event)

    return asyncio.run(once())
