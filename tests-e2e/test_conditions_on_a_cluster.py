"""No header of a publisher stops a replicated stream, and the relay sends none that could."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from nats.aio.client import Client
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError
from nats_cluster import INSTALLED_SERVER, OBSERVER, REPLICAS, SERVER, NatsCluster
from paybill_contracts.envelope import Origin
from paybill_contracts.tenant import OfferingNoted
from paybill_runtime.decisions.group_commit import Decision
from paybill_runtime.messaging.streams import EVENTS, INTAKE, KEYS, connect, ensure
from paybill_runtime.testing import cancel, until
from paybill_stack.layout import Layout
from paybill_stack.ports import POSTGRES
from paybill_stack.servers import ExternalServers, Servers
from paybill_tenant.app import service
from paybill_tenant.tables import SIGNUP_OPTIONS

LAST_ID = "Nats-Expected-Last-Msg-Id"
STOPPED_BY_LAST_ID = ((2, 14, 0), (2, 15, 1))
"""First and last version of nats-server on which this condition, when it does not hold, stops a replicated stream."""

PUBLISHED = {
    EVENTS: ("provisioner", "paybill.events.0.provisioner.test.v1"),
    INTAKE: ("metering", "paybill.intake.metering.usage_reported.v1"),
    KEYS: ("tenant", "$KV.keys.tenant.ten_1"),
}
"""A publisher into each stream, and its subject."""
REFUSED = {
    "stream": {"Nats-Expected-Stream": "OTHER"},
    "last sequence": {"Nats-Expected-Last-Sequence": "999999"},
    "last sequence of the subject": {"Nats-Expected-Last-Subject-Sequence": "999999"},
    "last sequence of other subjects": {
        "Nats-Expected-Last-Subject-Sequence": "999999",
        "Nats-Expected-Last-Subject-Sequence-Subject": "paybill.>",
    },
    "last message": {LAST_ID: "another"},
    "last message in a batch": {
        LAST_ID: "another",
        "Nats-Batch-Id": "b",
        "Nats-Batch-Sequence": "1",
        "Nats-Batch-Commit": "1",
    },
    "middle of an unknown batch": {"Nats-Batch-Id": "unknown", "Nats-Batch-Sequence": "7"},
    "rollup of all subjects": {"Nats-Rollup": "all"},
    "rollup of the subject": {"Nats-Rollup": "sub"},
    "life time": {"Nats-TTL": "1s"},
    "increment": {"Nats-Incr": "1"},
}
"""Headers with values that the server refuses."""
COUNTS = (2, 3, 8)
"""Facts of one tenant that are committed together; to a single server they are sent as a chain."""


@pytest.fixture(scope="module")
def nats(tmp_path_factory):
    """Runs a cluster with all streams; replaces the single server in every fixture."""
    with NatsCluster(tmp_path_factory.mktemp("cluster")).running() as cluster:
        asyncio.run(_create_streams(cluster))
        yield cluster


async def _create_streams(cluster: NatsCluster) -> None:
    steward = await connect(cluster.url, "steward", cluster.password("steward"))
    await ensure(steward, REPLICAS)
    await steward.close()
    observer = await connect(cluster.url, OBSERVER, cluster.password(OBSERVER))
    for user, subject in PUBLISHED.values():
        await until(partial(_published, observer.jetstream(), subject.replace(user, OBSERVER)), timeout_s=30)
    await observer.close()


async def _published(jetstream: JetStreamContext, subject: str) -> bool:
    try:
        await jetstream.publish(subject, b"{}")
    except NoStreamResponseError:  # a node has a new stream a moment after its creation
        return False
    return True


@pytest.fixture
async def connected(nats):
    """`await connected(user)` returns a connection, which ends with the test."""
    clients: list[Client] = []

    async def connect_as(user: str) -> Client:
        clients.append(await connect(nats.url, user, nats.password(user)))
        return clients[-1]

    yield connect_as
    for client in clients:
        await client.close()


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("stream", PUBLISHED)
async def test_a_publisher_whose_header_is_refused_and_all_others_can_publish_on(
    connected: Callable[[str], Awaitable[Client]], stream: str, headers: dict[str, str]
) -> None:
    user, subject = PUBLISHED[stream]
    client = await connected(user)
    if LAST_ID in headers and "Nats-Batch-Id" not in headers and _stopped_by_last_id(client):
        pytest.skip(f"nats-server {client.connected_server_version} stops a replicated stream: {LAST_ID}")

    with pytest.raises(APIError):
        await client.jetstream().publish(subject, b"{}", headers=headers, timeout=5)

    observer = await connected(OBSERVER)
    assert (await client.jetstream().publish(subject, b"{}", timeout=5)).seq
    assert (await observer.jetstream().publish(subject.replace(user, OBSERVER), b"{}", timeout=5)).seq


def _stopped_by_last_id(client: Client) -> bool:
    version = client.connected_server_version
    first, last = STOPPED_BY_LAST_ID
    return first <= (version.major, version.minor, version.patch) <= last


@pytest.mark.skipif(SERVER == INSTALLED_SERVER, reason="needs 2.12.8: PAYBILL_TEST_CLUSTER_NATS_SERVER=FILE")
async def test_a_stream_that_a_condition_stopped_takes_messages_again_under_the_older_server(tmp_path) -> None:
    cluster = NatsCluster(tmp_path)
    user, subject = PUBLISHED[INTAKE]
    with cluster.running(INSTALLED_SERVER):
        await _create_streams(cluster)
        client = await connect(cluster.url, user, cluster.password(user))
        if not _stopped_by_last_id(client):
            pytest.skip(f"nats-server {client.connected_server_version} stops no stream")
        for number in range(100):
            await client.jetstream().publish(subject, b"%d" % number)
        with pytest.raises(APIError):
            await client.jetstream().publish(subject, b"{}", headers={LAST_ID: "another"}, timeout=5)
        with pytest.raises(TimeoutError):
            await client.jetstream().publish(subject, b"{}", timeout=2)
        await client.close()

    with cluster.running(SERVER):
        observer = await connect(cluster.url, OBSERVER, cluster.password(OBSERVER))
        await until(partial(_published, observer.jetstream(), subject.replace(user, OBSERVER)), timeout_s=60)
        stored = [await observer.jetstream().get_msg(INTAKE, sequence) for sequence in range(2, 102)]
        await observer.close()

    assert [message.data for message in stored] == [b"%d" % number for number in range(100)]


async def test_a_stack_that_uses_a_cluster_keeps_the_replicas_of_its_streams(nats, connected) -> None:
    jetstream = (await connected("steward")).jetstream()

    await Servers(ExternalServers(nats.url, nats.folder), Layout(nats.folder), {POSTGRES: 1}).prepare_streams()

    assert {(await jetstream.stream_info(stream)).config.num_replicas for stream in PUBLISHED} == {REPLICAS}


async def test_the_relay_publishes_small_sets_to_a_cluster_as_atomic_batches(
    nats, start, publish, offerings, connected
) -> None:
    """Another publisher is active all the time, so that conditions about the last message would not hold."""
    observer = await connected(OBSERVER)
    sent = await observer.subscribe("paybill.events.*.tenant.>")
    await observer.flush()
    served = await start(service(), nats_url=nats.url)
    await publish(*offerings)
    competing = asyncio.create_task(_publish_repeatedly(await connected("billing")))

    for count in COUNTS:
        notes = [OfferingNoted(offering=f"x{count}", keys=(f"eu-{n}",), source_hash="e" * 64) for n in range(count)]
        origin = Origin("test", "test", "service:tenant", "")
        decide = partial(_record, f"x{count}", notes)
        key = SIGNUP_OPTIONS.key(f"x{count}")
        await served.running.group_commit.decide(Decision(origin, decide, writes=[key]))
        await until(partial(_is_drained, served))

    await cancel(competing)
    messages = [await sent.next_msg(timeout=5) for _ in range(sent.pending_msgs)]
    facts = [message for message in messages if b'"offering":"x' in message.data]
    assert len({message.headers["ce-id"] for message in facts}) == sum(COUNTS)
    assert not any(LAST_ID in (message.headers or {}) for message in messages)
    assert all("Nats-Batch-Id" in message.headers for message in facts)
    revisions = [
        int(message.headers["pb-revision"]) for message in facts if message.headers["pb-aggregate"].endswith("/x8")
    ]
    assert revisions == list(range(1, 9))


def _record(offering, notes, unit, _at) -> None:
    unit.record(SIGNUP_OPTIONS, offering, notes)


async def _is_drained(served) -> bool:
    return (await served.client.get("/v1/operations")).json()["outbox_waiting"] == 0


async def _publish_repeatedly(client: Client) -> None:
    while True:
        await client.jetstream().publish("paybill.events.0.billing.test.v1", b"{}")
