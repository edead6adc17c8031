"""Client of Paybill for a company's other services: publish events to it, and subscribe to its events."""

from paybill_contracts.envelope import Fact

from paybill_client.batches import Batch
from paybill_client.credentials import Credentials
from paybill_client.errors import (
    ClientError,
    ConnectionLostError,
    CredentialsError,
    NatsUnreachableError,
    NotSubscribedError,
    OlderLogError,
    PublishDeniedError,
    PublishError,
    PublishRefusedError,
    SubscribeDeniedError,
    UnreadableEventError,
    UnsealDeniedError,
)
from paybill_client.once import once
from paybill_client.publisher import Publisher, Receipt, publish
from paybill_client.retries import DeadLetter
from paybill_client.subscriber import Subscriber
from paybill_client.unsealer import Unsealer

__all__ = [
    "Batch",
    "ClientError",
    "ConnectionLostError",
    "Credentials",
    "CredentialsError",
    "DeadLetter",
    "Fact",
    "NatsUnreachableError",
    "NotSubscribedError",
    "OlderLogError",
    "PublishDeniedError",
    "PublishError",
    "PublishRefusedError",
    "Publisher",
    "Receipt",
    "SubscribeDeniedError",
    "Subscriber",
    "UnreadableEventError",
    "UnsealDeniedError",
    "Unsealer",
    "once",
    "publish",
]
