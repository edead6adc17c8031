"""Configuration of the streams and the key bucket; the steward creates them by running this module."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.errors import NoServersError
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError
from paybill_contracts.settings import unknown_settings

from paybill_runtime.messaging.nats_patches import tolerate_malformed_messages

EVENTS = "EVENTS"
INTAKE = "INTAKE"
KEYS = "KV_keys"

MAX_CONSUMERS = {EVENTS: 1000, INTAKE: 64, KEYS: 1}
"""Without a limit of its own a stream has 1,000 from nats-server 2.15 on, and none before. Nobody may consume keys."""

_GIB = 1024**3
_FREE = {"name", "description", "metadata", "placement", "num_replicas", "first_seq", "compression"}
"""Settings that change neither what is stored nor who receives it; a rebuilt log has another first sequence."""
_DEFAULTS = {
    "max_msgs": -1,
    "max_bytes": -1,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "retention": "limits",
    "duplicate_window": 120 * 10**9,
}
"""The server's values of settings that are not set; those of all others are false or empty."""
_NOT_FOUND, _NO_SPACE = 404, (10023, 10028, 10047)


class StreamSpaceError(Exception):
    """NATS has no space for the streams: it reserves the limit of each, and needs a part more of the disk."""


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


class StreamLostError(Exception):
    """EVENTS does not exist, but streams that were created after it do: an empty one would hide the loss."""


async def ensure(client: Client, replicas: int | None = None) -> None:
    """Creates missing streams, and updates those whose settings differ. Idempotent.

    replicas: of every stream. None: existing streams keep theirs, and new ones get one. Raises StreamLostError,
    StreamSpaceError.
    """
    wanted = configurations(replicas or 1)
    existing = {each.name: await _configuration(client, each.name or "") for each in wanted}
    if existing[EVENTS] is None and any(existing.values()):
        raise StreamLostError(f"the stream {EVENTS} does not exist, but others do: the log is lost")
    for configuration in wanted:
        found = existing[configuration.name]
        if found and replicas is None:
            configuration.num_replicas = found["num_replicas"]
        # Each update reserves the space of the stream again, which a disk that is nearly full refuses.
        differs = not found or found["num_replicas"] != configuration.num_replicas
        if not differs and not any(differences(configuration.name or "", found)):
            continue
        jetstream = client.jetstream()
        try:
            await (jetstream.update_stream if found else jetstream.add_stream)(configuration)
        except APIError as error:
            if error.err_code not in _NO_SPACE:
                raise
            doing = "updated" if found else "created"
            raise StreamSpaceError(f"the stream {configuration.name} cannot be {doing}: {error.description}") from error


async def _configuration(client: Client, name: str) -> Any:
    """Returns the settings of a stream; None when it does not exist. The client library does not know all of them."""
    answer = json.loads((await client.request(f"$JS.API.STREAM.INFO.{name}", timeout=5)).data)
    if (error := answer.get("error")) and error["code"] != _NOT_FOUND:
        raise APIError.from_error(error)
    return answer.get("config")


def differences(name: str, found: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yields each setting of a stream that is not as created: its name, its value and the right one.

    found: the configuration as the server reports it. A setting that this version does not know has to be off.
    """
    [created] = [each for each in configurations(1) if each.name == name]
    safe = _DEFAULTS | {key: value for key, value in json.loads(json.dumps(created.as_dict())).items() if value}
    for key in sorted((found.keys() | safe.keys()) - _FREE):
        value, right = found.get(key), safe.get(key)
        if value != right and (value or right):
            yield key, value, right


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
    try:
        await ensure(client, int(os.environ.get("PAYBILL_NATS_REPLICAS", "1")))
    except StreamSpaceError as error:
        sys.exit(f"{error}; free space on the disk of NATS")
    except StreamLostError as error:
        sys.exit(f"{error}; restore it as docs/restoring.md describes")
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(_main())
