"""Isolation of tests that share servers, and attribution of failed finalizers."""

import pytest
from nats.js.errors import NotFoundError
from paybill_runtime.messaging.streams import EVENTS, connect

pytest_plugins = ["pytester"]


async def test_a_reset_removes_messages_consumers_and_keys(shared_nats, nats) -> None:
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    jetstream = client.jetstream()
    await jetstream.publish("paybill.events.0.tenant.x.v1", b"{}")
    await jetstream.publish("$KV.keys.tenant.x", b"{}")
    await jetstream.pull_subscribe("paybill.events.>", durable="left", stream=EVENTS)

    await shared_nats.reset()

    for stream in (EVENTS, "KV_keys"):
        state = (await jetstream.stream_info(stream)).state
        assert (state.messages, state.last_seq, state.consumer_count) == (0, 0, 0)
    with pytest.raises(NotFoundError):
        await jetstream.consumer_info(EVENTS, "left")
    await client.close()


async def test_a_database_is_dropped_after_its_test(migrated_databases, postgres) -> None:
    url = await migrated_databases.fresh("tenant")
    name = url.rpartition("/")[2]
    listed = f"SELECT 1 FROM pg_database WHERE datname = '{name}'"
    before = await migrated_databases.execute(url, "tenant", listed)

    await migrated_databases.drop_copies()

    other = postgres.url("tenant", "template_tenant")
    assert (len(before), await migrated_databases.execute(other, "tenant", listed)) == (1, [])


def test_a_failed_finalizer_is_reported_for_the_test_that_left_the_object(pytester) -> None:
    pytester.makepyfile(
        """
        class Broken:
            def __init__(self):
                self.cycle = self

            def __del__(self):
                raise RecursionError("too deep")

        async def test_cause():
            Broken()

        async def test_innocent():
            pass
        """
    )
    options = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function", "-W", "error")

    result = pytester.runpytest_subprocess("-p", "paybill_runtime.testing", "-p", "no:cacheprovider", "-v", *options)

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*test_cause ERROR*"])
