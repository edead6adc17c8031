"""Creates ephemeral consumers, each under one of the names that NATS permits the identity of the connection."""

import json
import secrets
from collections import Counter

from nats.aio.client import Client
from nats.js.api import ConsumerConfig
from nats.js.errors import Error as JetStreamError
from paybill_contracts.consumer_names import SERVICE_CONSUMERS, consumer_names

_NAME_TAKEN = 10148
_TOO_MANY = 10026
_TIMEOUT_S = 5.0


class NoFreeConsumerError(JetStreamError):
    """No further consumer is possible now. Callers try again, as for other errors of JetStream."""


async def create_consumer(client: Client, stream: str, configuration: ConsumerConfig) -> str:
    """Creates a consumer under a free name and returns the name. Raises errors of NATS, NoFreeConsumerError."""
    identity = str(client.options.get("user") or "paybill")
    names = list(consumer_names(identity, SERVICE_CONSUMERS))
    secrets.SystemRandom().shuffle(names)
    # With this text no two configurations are equal: the server would accept the creation of an equal one again.
    unique = {"creation": secrets.token_hex(8)}
    for name in names:
        error = await _error_of_creation(client, stream, configuration.evolve(name=name, metadata=unique))
        match error.get("err_code"):
            case None:
                return name
            case code if code == _NAME_TAKEN:
                continue
            case code if code == _TOO_MANY:
                raise NoFreeConsumerError(
                    f"the stream {stream} has as many consumers as it permits; this is tried again, "
                    "and `paybill doctor` lists whose they are"
                )
            case code:
                raise JetStreamError(f"NATS refuses a consumer of {stream}: {error.get('description')} ({code})")
    raise NoFreeConsumerError(
        f"all {len(names)} consumers of {identity} on {stream} are in use; this is tried again, and unused ones end "
        "after a minute"
    )


async def consumers_by_identity(client: Client, stream: str) -> Counter[str]:
    """Returns how many consumers each identity has on the stream; those with a name of their own count by it.

    The server lists 1,024 of them, more than a stream permits. Raises TimeoutError for who may not list them.
    """
    answer = await client.request(f"$JS.API.CONSUMER.NAMES.{stream}", b"", timeout=_TIMEOUT_S)
    names: list[str] = json.loads(answer.data).get("consumers") or []
    parts = [name.rpartition("-") for name in names]
    return Counter(
        identity if number.isdecimal() else name for name, (identity, _, number) in zip(names, parts, strict=True)
    )


async def _error_of_creation(client: Client, stream: str, configuration: ConsumerConfig) -> dict[str, object]:
    """Sends the request, which nats-py sends without `create`: the server would then change an existing consumer."""
    request = {"stream_name": stream, "config": configuration.as_dict(), "action": "create"}
    filter_ = f".{configuration.filter_subject}" if configuration.filter_subject else ""
    subject = f"$JS.API.CONSUMER.CREATE.{stream}.{configuration.name}{filter_}"
    answer = await client.request(subject, json.dumps(request).encode(), timeout=_TIMEOUT_S)
    found: dict[str, object] = json.loads(answer.data).get("error", {})
    return found
