"""No identity takes the places of others for consumers, and one that finds none says so and tries again."""

from contextlib import AsyncExitStack

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig
from paybill_contracts.consumer_names import SERVICE_CONSUMERS, SUBSCRIBER_CONSUMERS, consumer_names
from paybill_embedded.subscribers import Subscriber
from paybill_embedded.users import SERVICES, permissions, subscriber_permissions
from paybill_runtime.messaging.consumer_creation import NoFreeConsumerError, consumers_by_identity, create_consumer
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.streams import EVENTS, configurations, connect
from paybill_runtime.testing import until

CONFIGURATION = ConsumerConfig(
    deliver_policy=DeliverPolicy.ALL,
    ack_policy=AckPolicy.NONE,
    filter_subject="paybill.events.>",
    inactive_threshold=60,
    mem_storage=True,
    num_replicas=1,
)


@pytest.fixture
async def connected(nats):
    """`await connected(user)` returns a connection, which ends with the test."""
    async with AsyncExitStack() as stack:

        async def connect_as(user):
            client = await connect(nats.url, user, nats.password(user))
            stack.push_async_callback(client.close)
            return client

        yield connect_as


async def test_a_service_that_uses_all_its_consumers_leaves_those_of_others(connected) -> None:
    tenant, billing = await connected("tenant"), await connected("billing")

    names = [await create_consumer(tenant, EVENTS, CONFIGURATION) for _ in range(SERVICE_CONSUMERS)]

    assert set(names) == set(consumer_names("tenant", SERVICE_CONSUMERS))
    with pytest.raises(NoFreeConsumerError, match="all 32 consumers of tenant on EVENTS are in use"):
        await create_consumer(tenant, EVENTS, CONFIGURATION)
    assert await create_consumer(billing, EVENTS, CONFIGURATION) in consumer_names("billing", SERVICE_CONSUMERS)
    operator = await connected("operator")
    await operator.jetstream().add_consumer(EVENTS, ConsumerConfig(name="crm-x1", inactive_threshold=60))
    amounts = {"tenant": SERVICE_CONSUMERS, "billing": 1, "crm-x1": 1}
    assert [await consumers_by_identity(each, EVENTS) for each in (operator, tenant)] == [amounts, amounts]


async def test_a_full_stream_is_named_and_an_ordered_consumer_goes_on_once_there_is_one(connected) -> None:
    steward, tenant, operator = [await connected(user) for user in ("steward", "tenant", "operator")]
    [events] = [each for each in configurations(1) if each.name == EVENTS]
    await steward.jetstream().update_stream(StreamConfig(**{**vars(events), "max_consumers": 1}))
    taken = await create_consumer(operator, EVENTS, CONFIGURATION)
    await tenant.jetstream().publish("paybill.events.0.tenant.x.v1", b"{}")
    consumer = OrderedConsumer(tenant, EVENTS, ["paybill.events.>"], 1)

    with pytest.raises(NoFreeConsumerError, match="EVENTS has as many consumers as it permits; this is tried again"):
        await consumer.fetch(1.0)
    await operator.jetstream().delete_consumer(EVENTS, taken)

    assert len(await consumer.fetch(30.0)) == 1


async def test_a_closed_consumer_is_deleted_at_once(connected) -> None:
    tenant, operator = await connected("tenant"), await connected("operator")
    consumer = OrderedConsumer(tenant, EVENTS, ["paybill.events.>"], 1)
    assert await consumer.pending() == 0

    await consumer.close()

    async def is_gone() -> bool:
        return (await operator.jetstream().stream_info(EVENTS)).state.consumer_count == 0

    await until(is_gone)


def test_nats_permits_the_names_that_the_libraries_use() -> None:
    subscriber = Subscriber("crm", ("tenant",), "crm-x", batches=True)

    for rights, names in (
        *((permissions(each), consumer_names(each, SERVICE_CONSUMERS)) for each in SERVICES),
        (subscriber_permissions(subscriber), consumer_names("crm", SUBSCRIBER_CONSUMERS)),
    ):
        permitted = {right.split(".")[5] for right in rights.publish if ".CONSUMER.CREATE.EVENTS." in right}
        assert permitted == set(names)
