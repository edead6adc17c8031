"""Publishers and subscribers of other services: their credentials files, and the durable consumers of subscribers."""

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError
from paybill_client.credentials import Credentials
from paybill_embedded.credentials import password, private_dir, write_private
from paybill_embedded.nats import DEFAULT_PUBLISHERS
from paybill_embedded.subscribers import Subscriber, read_subscribers
from paybill_runtime.messaging.streams import EVENTS
from paybill_runtime.security.identity import Identity, make_identity
from pydantic import SecretStr

from paybill_stack.access import BusAccess
from paybill_stack.layout import Layout

ACK_WAIT_S = 5.0
"""Time after which an event whose handler died is delivered again; a running handler extends it."""


def write_client_files(layout: Layout, bus: BusAccess) -> None:
    """Writes the credentials file of every publisher and subscriber, with the current address of NATS."""
    private_dir(layout.clients)
    for name in DEFAULT_PUBLISHERS:
        if bus.password_file(name).exists():
            write_private(layout.client(name), Credentials.of(name, bus.url, bus.password(name)).text())
    for subscriber in read_subscribers(layout.root).values():
        write_subscriber_file(layout.client(subscriber.name), layout.root, bus.url, subscriber)


def write_subscriber_file(path: Path, data_dir: Path, url: str, subscriber: Subscriber) -> None:
    """Writes the credentials file (0600) of a subscriber; creates its password at the first call."""
    private_key = None
    if subscriber.opens:
        subscriber_public_key(data_dir, subscriber.name)
        raw = Identity.load(Layout(data_dir).identities, subscriber.name).private.private_bytes_raw()
        private_key = SecretStr(b64encode(raw).decode())
    credentials = Credentials(
        name=subscriber.name,
        servers=(url,),
        password=SecretStr(password(data_dir, f"nats-{subscriber.name}")),
        consumer=subscriber.consumer,
        contexts=subscriber.contexts if subscriber.batches else (),
        opens=subscriber.opens,
        private_key=private_key,
    )
    write_private(path, credentials.text())


def remove_client_files(layout: Layout, name: str) -> None:
    """Removes credentials file, password and key pair of a client."""
    password_file = layout.credentials / f"nats-{name}"
    for path in (layout.client(name), password_file, *layout.identities.glob(f"{name}.*")):
        path.unlink(missing_ok=True)


def subscriber_public_key(data_dir: Path, name: str) -> bytes:
    """Returns the public key of a subscriber (X25519); creates its key pair at the first call."""
    folder = private_dir(Layout(data_dir).identities)
    make_identity(folder, name)
    return (folder / f"{name}.pub").read_bytes()


def event_filters(contexts: Sequence[str], types: Sequence[str]) -> list[str]:
    """Returns the subjects of all events of `contexts`; of a context with a type in `types`, only of these types."""
    narrowed = {type_.partition(".")[0] for type_ in types}
    whole = [f"paybill.events.*.{context}.>" for context in contexts if context not in narrowed]
    return [*whole, *(f"paybill.events.*.{type_}.*" for type_ in types)]


async def ensure_consumer(client: Client, name: str, filters: Sequence[str], *, new_only: bool = False) -> bool:
    """Creates the durable consumer `name` of EVENTS, or changes its filters and keeps its position.

    It delivers one event at a time, in order, until it is acknowledged. new_only: a new one begins with the next
    event instead of the first. Returns whether it was created. Raises errors of NATS.
    """
    jetstream = client.jetstream()
    try:
        existing = (await jetstream.consumer_info(EVENTS, name)).config
    except NotFoundError:
        configuration = ConsumerConfig(
            name=name,
            durable_name=name,
            deliver_policy=DeliverPolicy.NEW if new_only else DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            max_ack_pending=1,
            max_deliver=-1,
            filter_subjects=list(filters),
        )
        await jetstream.add_consumer(EVENTS, configuration)
        return True
    existing.filter_subject = None
    await jetstream.add_consumer(EVENTS, existing, filter_subjects=list(filters))
    return False
