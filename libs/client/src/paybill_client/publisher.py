"""Publisher of events to the intake, where the owner of the event type records or refuses them.

async with Publisher("metering.json") as publisher:
    await publisher.publish(Usage(tenant_id=tenant, meter="calls", quantity=12, occurred_at=now))
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from nats.aio.client import Client
from nats.errors import ConnectionClosedError, ConnectionReconnectingError, OutboundBufferLimitError
from nats.errors import Error as NatsError
from nats.js.errors import APIError, NoStreamResponseError
from paybill_contracts.envelope import IntakeEvent, intake_headers, intake_subject, read_intake_event
from paybill_contracts.event import Event, encode

from paybill_client.connection import CONNECT_TIMEOUT_S, DeniedError, ErrorMonitor, client_options, close
from paybill_client.credentials import Credentials, read_credentials
from paybill_client.errors import NatsUnreachableError, PublishDeniedError, PublishRefusedError
from paybill_client.tracing import child, current_traceparent, new_id

ANSWER_TIMEOUT_S = 2.0

_TRY_AGAIN = (TimeoutError, ConnectionClosedError, ConnectionReconnectingError, OutboundBufferLimitError, OSError)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The event is stored in the intake at `sequence`; `duplicate`: it was stored under this id before."""

    id: str
    sequence: int
    duplicate: bool


class Publisher:
    """A connection as one publisher until the block ends; it reconnects by itself.

    credentials: of the publisher, or the path of its credentials file.
    Entering raises CredentialsError, NatsUnreachableError or PublishDeniedError.
    """

    def __init__(self, credentials: Credentials | Path | str) -> None:
        self._credentials = read_credentials(credentials)
        self._name = self._credentials.name
        self._client = Client()
        self._monitor = ErrorMonitor()

    async def __aenter__(self) -> Self:
        """Connects."""
        connecting = self._client.connect(
            **client_options(self._credentials, self._monitor),
            user=self._name,
            password=self._credentials.password.get_secret_value(),
        )
        try:
            await self._monitor.unless_denied(connecting, CONNECT_TIMEOUT_S)
        except (TimeoutError, OSError, NatsError) as error:
            await close(self._client.close())
            raise self._unreachable() from error
        except DeniedError as error:
            await close(self._client.close())
            raise self._denied() from error
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the connection; everything that was published is acknowledged."""
        await close(self._client.close())

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
        trace = child(traceparent or current_traceparent())
        observation = IntakeEvent(event, id or new_id(), self._name, time or datetime.now(UTC), trace)
        subject, headers, payload = intake_subject(self._name, event), intake_headers(observation), encode(event)
        # Parsed as the owner will parse it: an event that was built without validation is refused here.
        read_intake_event(subject, headers, payload)
        return await self._stored(subject, payload, headers, timeout_s)

    async def _stored(self, subject: str, payload: bytes, headers: dict[str, str], timeout_s: float) -> Receipt:
        """Publishes until it is confirmed: a repeated id is stored once."""
        jetstream = self._client.jetstream(prefix=self._credentials.jetstream_prefix)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                ack = await self._monitor.unless_denied(
                    jetstream.publish(subject, payload, timeout=ANSWER_TIMEOUT_S, headers=headers), ANSWER_TIMEOUT_S
                )
                return Receipt(headers["ce-id"], ack.seq, bool(ack.duplicate))
            except DeniedError as error:
                raise self._denied() from error
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

    def _address(self) -> str:
        return ", ".join(self._credentials.servers)

    def _denied(self) -> PublishDeniedError:
        return PublishDeniedError(
            f"NATS at {self._address()} denies this to {self._name}",
            "check the name, the password, and that this publisher exists",
        )

    def _unreachable(self) -> NatsUnreachableError:
        return NatsUnreachableError(
            f"NATS does not answer at {self._address()}",
            "check the URL and that it runs, then publish again under the same id",
        )


def publish(event: Event, credentials: Credentials | Path | str) -> Receipt:
    """Publishes one event from synchronous code. Raises the errors of `Publisher`."""

    async def once() -> Receipt:
        async with Publisher(credentials) as publisher:
            return await publisher.publish(event)

    return asyncio.run(once())
