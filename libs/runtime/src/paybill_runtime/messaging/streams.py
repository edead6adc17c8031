"""Configuration of the streams and the key bucket; the steward creates them by running this module."""

import asyncio
import os
import sys
from pathlib import Path

from nats.aio.client import Client
from nats.errors import NoServersError
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError
from paybill_contracts.settings import unknown_settings

from paybill_runtime.messaging.nats_patches import tolerate_malformed_messages

EVENTS = "EVENTS"
INTAKE = "INTAKE"
KEYS = "KV_keys"

MAX_CONSUMERS = {EVENTS: 1000, INTAKE: 64, KEYS: 1}
"""Without a limit of its own a stream has 1,000 from nats-server 2.15 on, and none before. Nobody may consume keys."""

_GIB = 1024**3


def configurations(replicas: int) -> list[StreamConfig]:
    """Returns the configurations. EVENTS keeps every message and forbids deletion; keys must be erasable."""
    return [
        StreamConfig(
            name=EVENTS,
            subjects=["paybill.events.>"],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            num_replicas=replicas,
            max_consumers=MAX_CONSUMERS[EVENTS],
            duplicate_window=600,
            deny_delete=True,
            deny_purge=True,
            allow_direct=True,
            allow_atomic=True,
        ),
        StreamConfig(
            name=INTAKE,
            subjects=["paybill.intake.>"],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            num_replicas=replicas,
            max_consumers=MAX_CONSUMERS[INTAKE],
            duplicate_window=600,
            max_age=7 * 86_400,
            max_bytes=_GIB,
            max_msg_size=64 * 1024,
            allow_direct=True,
        ),
        StreamConfig(
            name=KEYS,
            subjects=["$KV.keys.>"],
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            num_replicas=replicas,
            max_consumers=MAX_CONSUMERS[KEYS],
            max_msgs_per_subject=1,
            # Otherwise one message with the header `Nats-Rollup: all` would erase the keys of every service.
            allow_rollup_hdrs=False,
            allow_direct=True,
        ),
    ]


async def ensure(client: Client, replicas: int | None = None) -> None:
    """Creates missing streams and updates the configuration of the others. Idempotent.

    replicas: of every stream. None: existing streams keep theirs, and new ones get one.
    """
    jetstream = client.jetstream()
    for configuration in configurations(replicas or 1):
        try:
            existing = await jetstream.stream_info(configuration.name or "")
        except NotFoundError:
            await jetstream.add_stream(configuration)
        else:
            if replicas is None:
                configuration.num_replicas = existing.config.num_replicas
            await jetstream.update_stream(configuration)


async def connect(url: str, user: str, password: str, wait_s: float = 30) -> Client:
    """Returns a connection as `user`, with retries until `wait_s` have passed."""
    client = Client()
    deadline = asyncio.get_running_loop().time() + wait_s
    while True:
        try:
            # By default the client would retry for two minutes before it raises.
            await client.connect(
                url,
                user=user,
                password=password,
                inbox_prefix=f"_INBOX_{user}".encode(),
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=2,
                error_cb=_ignore,
            )
        except (OSError, NoServersError, TimeoutError):
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            tolerate_malformed_messages(client)
            return client


async def _ignore(_: Exception) -> None:
    """Replaces the client's callback, which would log a traceback for each attempt; the last error is raised."""


async def _main() -> None:
    if unknown := unknown_settings(os.environ):
        sys.exit(f"configuration: {unknown}")
    client = await connect(
        os.environ.get("PAYBILL_NATS_URL", "nats://127.0.0.1:4222"),
        os.environ.get("PAYBILL_NATS_USER", "steward"),
        Path(os.environ["PAYBILL_NATS_PASSWORD_FILE"]).read_text(encoding="utf-8").strip(),
    )
    await ensure(client, int(os.environ.get("PAYBILL_NATS_REPLICAS", "1")))
    await client.close()


if __name__ == "__main__":
    asyncio.run(_main())
