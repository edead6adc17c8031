"""Subscriber: Paybill's events as typed objects, one at a time in order by handlers, or in batches from a position.

subscriber = Subscriber("crm.json")

@subscriber.on(SubscriptionActivated)
async def activated(event: SubscriptionActivated, fact: Fact) -> None: ...

await subscriber.run()

FastStream declares the subscription, calls the handler, acknowledges, and opens spans. It is fed by `process_message`
and not by `start`: FastStream's own loop retries a revoked login without end, asks without a pause for a consumer that
does not exist, and blocks the process once nats-py has closed the connection.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from faststream import AckPolicy
from faststream.message import StreamMessage
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.security import NatsUserPassword
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy as ConsumerAckPolicy
from nats.js.api import ConsumerConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError, ServiceUnavailableError
from paybill_contracts.envelope import EVENTS_ROOT, Fact
from paybill_contracts.errors import RetryLaterError
from paybill_contracts.event import Event, latest_event

from paybill_client.batches import Batch, read_batches
from paybill_client.connection import EVENTS, PAUSE_S, DeniedError, ErrorMonitor, client_options, close, connection
from paybill_client.credentials import Credentials, read_credentials
from paybill_client.errors import ConnectionLostError, CredentialsError, NotSubscribedError, SubscribeDeniedError
from paybill_client.once import Handler
from paybill_client.ordered_consumer import RENEW_S
from paybill_client.retries import OnDeadLetter, Retries, readable_fact_of, type_of
from paybill_client.tracing import telemetry_middlewares

log = logging.getLogger(__name__)
E = TypeVar("E", bound=Event)

FETCH_S = 1.0
"""Longest wait for an event; after a reconnect a request is lost, and repeated after this time."""
OUTAGES = (OSError, TimeoutError, RetryLaterError)


class Subscriber:
    """Handlers of one subscriber's events.

    credentials: of the subscriber, or the path of its credentials file.
    tries: failures after which an event is a dead letter: it is logged, passed to `on_dead_letter`, and later events
    are handled. None: never; every later event waits until its handler succeeds.
    outages: errors of handlers that are not counted as a failure of the event.
    check_every_s: interval at which a running subscriber checks its rights, which an operator may have reduced.
    """

    def __init__(
        self,
        credentials: Credentials | Path | str,
        *,
        tries: int | None = 10,
        on_dead_letter: OnDeadLetter | None = None,
        outages: tuple[type[Exception], ...] = OUTAGES,
        check_every_s: float = RENEW_S,
    ) -> None:
        self._credentials = read_credentials(credentials)
        if self._credentials.consumer is None:
            raise CredentialsError(
                f"{self._credentials.name} is no subscriber", "create one with: paybill subscriber create"
            )
        self._consumer = self._credentials.consumer
        self._handlers: dict[str, Handler[Any]] = {}
        self._on_dead_letter = on_dead_letter
        self._check_every_s = check_every_s
        self._monitor = ErrorMonitor()
        self._client: Client | None = None
        self._stopping = asyncio.Event()
        self._retries = Retries(tries, outages, on_dead_letter)
        self._broker = self._new_broker()
        self._subscription = self._declare()

    def on(self, type_: type[E]) -> Callable[[Handler[E]], Handler[E]]:
        """Registers the decorated function as the handler of the events of `type_`, in their newest version.

        Older versions are converted. Events without a handler are acknowledged and skipped.
        """
        if latest_event(type_.TYPE) is not type_ or type_.TYPE in self._handlers:
            raise ValueError(f"{type_.TYPE} has a handler already, or {type_.__name__} is not its newest version")

        def register(handler: Handler[E]) -> Handler[E]:
            self._handlers[type_.TYPE] = handler
            return handler

        return register

    def stop(self) -> None:
        """Makes `run` return after the event that is being handled."""
        self._stopping.set()

    async def run(self) -> None:
        """Handles events until `stop` or cancellation. An outage of NATS is waited for, also at the start.

        Raises SubscribeDeniedError when the credentials are refused or revoked, NotSubscribedError when the durable
        consumer is missing or does not receive a type that has a handler, also when its rights were reduced while it
        runs, ConnectionLostError when nats-py has closed
        the connection, and UnreadableEventError for an event that cannot be read, such as one of a newer version,
        unless there is a callback for dead letters.
        """
        try:
            # FastStream leaves a connection open whose login is refused, so the first one is not its own.
            async with connection(self._credentials, self._monitor) as client:
                await self._check(client)
            self._client = client = await self._monitor.connected(self._broker.connect)
            jetstream = client.jetstream(prefix=self._credentials.jetstream_prefix)
            self._subscription.schema()  # builds the call of the handler
            pull = await jetstream.pull_subscribe_bind(
                consumer=self._consumer, stream=EVENTS, inbox_prefix=f"{self._credentials.inbox_prefix}.".encode()
            )
            check_at = monotonic() + self._check_every_s
            try:
                while not self._stopping.is_set():
                    if monotonic() > check_at:
                        await self._check(client)
                        check_at = monotonic() + self._check_every_s
                    message = await self._next(client, pull)
                    if message is not None:
                        await self._subscription.process_message(message)
                        if self._retries.unreadable is not None:
                            raise self._retries.unreadable
            finally:
                # nats-py drains a pull subscription without end once it has dropped a status message.
                await close(pull.unsubscribe())
        except DeniedError as error:
            raise self._denied() from error
        finally:
            await self._close()

    def batches(
        self,
        position: int = 0,
        *,
        context: str | None = None,
        types: Sequence[type[Event]] = (),
        size: int = 256,
    ) -> AsyncIterator[Batch]:
        """Yields batches of the events of one context after `position`, without end, in the order of the log.

        position: `Batch.position` of the last batch that was handled; the caller stores it in the transaction of its
        own changes. context: may be omitted when the subscriber may read only one. types: only these events.
        Waits for an outage of NATS. Raises SubscribeDeniedError, also when the right ends meanwhile, OlderLogError when
        the log ends before `position`, and UnreadableEventError for an event that cannot be read, unless there is a
        callback for dead letters.
        """
        contexts = self._credentials.contexts
        if not contexts:
            raise CredentialsError(
                f"{self._credentials.name} may not read in batches",
                f"paybill subscriber create {self._credentials.name} --batches",
            )
        if context not in (contexts if len(contexts) > 1 else {None, *contexts}):
            raise ValueError(f"name one context: {', '.join(contexts)}")
        return read_batches(
            self._credentials,
            context or contexts[0],
            position,
            [type_.TYPE for type_ in types],
            size,
            self._on_dead_letter,
            self._check_every_s,
        )

    def _new_broker(self) -> NatsBroker:
        credentials = self._credentials
        return NatsBroker(
            **client_options(credentials, self._monitor),
            security=NatsUserPassword(credentials.name, credentials.password.get_secret_value()),
            js_options={"prefix": credentials.jetstream_prefix},
            middlewares=(self._retries.middleware(), *telemetry_middlewares()),
            apply_types=False,
            logger=None,  # retries are logged in one line, by the module `retries`
        )

    def _declare(self) -> Any:
        async def decode(message: StreamMessage[Msg]) -> Fact | None:
            raw = message.raw_message
            return readable_fact_of(raw) if type_of(raw) in self._handlers else None

        async def handle(fact: Fact | None) -> None:
            if fact is not None:
                await self._handlers[fact.event.TYPE](fact.event, fact)

        subscription = self._broker.subscriber(
            f"{EVENTS_ROOT}.>",
            durable=self._consumer,
            stream=JStream(EVENTS, declare=False),
            pull_sub=PullSub(batch_size=1, timeout=FETCH_S),
            ack_policy=AckPolicy.NACK_ON_ERROR,
            no_reply=True,
            decoder=decode,
            title=self._credentials.name,
        )
        subscription(handle)
        return subscription

    async def _check(self, client: Client) -> None:
        """Checks what FastStream and nats-py do not: the consumer exists, and its configuration is as we need it."""
        config = await self._configuration(client.jetstream(prefix=self._credentials.jetstream_prefix))
        missing = [type_ for type_ in sorted(self._handlers) if not _receives(config, type_)]
        if missing:
            raise self._not_subscribed(f"it does not receive {', '.join(missing)}")
        if config.max_ack_pending != 1 or config.ack_policy != ConsumerAckPolicy.EXPLICIT:
            raise self._not_subscribed("its durable consumer has another configuration than one event at a time")

    async def _configuration(self, jetstream: JetStreamContext) -> ConsumerConfig:
        while True:
            try:
                info = await self._monitor.unless_denied(jetstream.consumer_info(EVENTS, self._consumer))
            except NotFoundError as error:
                raise self._not_subscribed("its durable consumer does not exist") from error
            except (NatsError, OSError, TimeoutError) as error:
                log.warning("NATS does not answer (%s); trying again", str(error) or type(error).__name__)
                await asyncio.sleep(PAUSE_S)
            else:
                configuration: ConsumerConfig = info.config
                return configuration

    async def _next(self, client: Client, pull: JetStreamContext.PullSubscription) -> Msg | None:
        """Returns the next message, or None when there was none for a second."""
        try:
            [message] = await pull.fetch(1, timeout=FETCH_S)
        except ServiceUnavailableError as error:
            # Nobody answers requests of this consumer: it was deleted, or its server is not ready yet.
            await self._check(client)
            log.warning("NATS has no events for now: %s", error)
            await asyncio.sleep(PAUSE_S)
            return None
        except ConnectionClosedError as error:
            self._monitor.check()
            raise ConnectionLostError(
                f"the connection to NATS was closed: {client.last_error or 'no error'}", "start the program again"
            ) from error
        except TimeoutError:
            self._monitor.check()
            return None
        except NatsError as error:
            log.warning("NATS: %s", error)
            await asyncio.sleep(PAUSE_S)
            return None
        return message

    async def _close(self) -> None:
        if self._client is not None:
            await close(self._broker.stop())
            await close(self._client.close())

    def _denied(self) -> SubscribeDeniedError:
        return SubscribeDeniedError(
            f"NATS at {', '.join(self._credentials.servers)} denies this to {self._credentials.name}",
            "check the credentials file, and that this subscriber exists",
        )

    def _not_subscribed(self, problem: str) -> NotSubscribedError:
        name = self._credentials.name
        return NotSubscribedError(
            f"the subscriber {name} is not usable: {problem}", f"paybill subscriber create {name} --contexts …"
        )


def _receives(config: ConsumerConfig, type_: str) -> bool:
    """Returns whether a filter of the consumer covers all events of a type."""
    filters = [*(config.filter_subjects or ()), *([config.filter_subject] if config.filter_subject else ())]
    context = type_.partition(".")[0]
    covering = {f"{EVENTS_ROOT}.>", f"{EVENTS_ROOT}.*.{context}.>", f"{EVENTS_ROOT}.*.{type_}.*"}
    return not filters or not covering.isdisjoint(filters)
