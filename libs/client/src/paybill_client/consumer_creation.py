"""Creates ephemeral consumers, each under one of the names that NATS permits the subscriber."""

import json
import secrets

from nats.aio.client import Client
from nats.js.api import ConsumerConfig
from nats.js.errors import Error as JetStreamError
from paybill_contracts.consumer_names import SUBSCRIBER_CONSUMERS, consumer_names

_NAME_TAKEN = 10148
_TOO_MANY = 10026
_TIMEOUT_S = 5.0


class NoFreeConsumerError(JetStreamError):
    """No further consumer is possible now. Reading tries again, as for other errors of JetStream."""


async def create_consumer(client: Client, prefix: str, stream: str, configuration: ConsumerConfig) -> tuple[str, int]:
    """Creates a consumer under a free name; returns the name, and how many messages it has to deliver.

    prefix: of the JetStream API. Raises errors of NATS, NoFreeConsumerError.
    """
    identity = str(client.options["user"])
    names = list(consumer_names(identity, SUBSCRIBER_CONSUMERS))
    secrets.SystemRandom().shuffle(names)
    # With this text no two configurations are equal: the server would accept the creation of an equal one again.
    unique = {"creation": secrets.token_hex(8)}
    for name in names:
        # nats-py sends the request without `create`: the server would then change an existing consumer.
        config = configuration.evolve(name=name, metadata=unique).as_dict()
        request = {"stream_name": stream, "config": config, "action": "create"}
        subject = f"{prefix}.CONSUMER.CREATE.{stream}.{name}.{configuration.filter_subject}"
        answer = json.loads((await client.request(subject, json.dumps(request).encode(), timeout=_TIMEOUT_S)).data)
        error = answer.get("error", {})
        match error.get("err_code"):
            case None:
                return name, int(answer["num_pending"])
            case code if code == _NAME_TAKEN:
                continue
            case code if code == _TOO_MANY:
                raise NoFreeConsumerError(f"the stream {stream} has as many consumers as it permits")
            case code:
                raise JetStreamError(f"NATS refuses a consumer of {stream}: {error.get('description')} ({code})")
    raise NoFreeConsumerError(
        f"all {len(names)} consumers of {identity} on {stream} are in use: read in fewer programs"
    )
