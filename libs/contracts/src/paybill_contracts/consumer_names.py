"""Names of the consumers that an identity may create on a stream of NATS.

NATS permits an identity no other names, so that none can take the places of the others under the limit of a stream.
"""

from collections.abc import Sequence

SERVICE_CONSUMERS = 32
"""Consumers of one service on one stream, of all its processes; unused ones end after a minute."""
SUBSCRIBER_CONSUMERS = 16
"""Consumers of a subscriber that reads in batches, besides its durable one."""


def consumer_names(identity: str, amount: int) -> Sequence[str]:
    """Returns the names for `identity`, such as `billing-1` to `billing-32`."""
    return [f"{identity}-{number}" for number in range(1, amount + 1)]
