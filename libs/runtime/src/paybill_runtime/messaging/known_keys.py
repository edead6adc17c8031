"""Known keys: the signing keys of all services, from the facts about them in the stream."""

from nats.aio.client import Client
from nats.aio.msg import Msg
from paybill_contracts.signing_keys import PUBLISHED, WITHDRAWN, KnownKeys, Refusal, SigningKey

from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS

KEY_SUBJECTS = [f"paybill.events.*.*.{kind}.*" for kind in (PUBLISHED, WITHDRAWN)]
ANSWER_TIMEOUT_S = 5.0


class KeyDirectory:
    """The keys that this process verifies facts with.

    `load` reads all facts about keys; later ones arrive between the facts that they concern, because the consumer of
    the stream subscribes to KEY_SUBJECTS as well.
    """

    def __init__(self, root: bytes, signed_from: int) -> None:
        self._root = root
        self._signed_from = signed_from
        self._known = KnownKeys(root, signed_from)

    async def load(self, client: Client) -> None:
        """Reads the facts about keys again: after a reconnect it may be another stream."""
        known = KnownKeys(self._root, self._signed_from)
        consumer = OrderedConsumer(client, EVENTS, KEY_SUBJECTS, 1)
        try:
            async for messages in consumer.existing(ANSWER_TIMEOUT_S):
                for message in messages:
                    _verify(known, message)
        finally:
            await consumer.close()
        self._known = known

    @property
    def keys(self) -> list[SigningKey]:
        """All keys of the log that are certified."""
        return self._known.keys

    def newest(self, owner: str) -> SigningKey | None:
        """Returns the key of a service with the highest number; None before its first one is in the log."""
        return self._known.newest(owner)

    def is_withdrawn(self, id_: str) -> bool:
        """Returns whether the key with this id is withdrawn."""
        return any(key.until is not None for key in self.keys if key.key_id == id_)

    def verify(self, message: Msg) -> Refusal | None:
        """Returns why a message of EVENTS is no fact of its writer; None when it is one."""
        return _verify(self._known, message)


def _verify(known: KnownKeys, message: Msg) -> Refusal | None:
    return known.verify(message.subject, message.headers or {}, message.data, stream_sequence(message))
