"""Isolation of tests that share servers, and attribution of failed finalizers."""

import pytest
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError
from paybill_runtime.messaging.streams import EVENTS, connect

pytest_plugins = ["pytester"]


async def test_a_reset_removes_messages_consumers_and_keys(shared_nats, nats) -> None:
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    jetstream = client.jetstream()
    await jetstream.publish("paybill.events.0.tenant.x.v1", b"{}")
    await jetstream.publish("$KV.keys.tenant.x", b"{}")
    await jetstream.add_consumer(EVENTS, ConsumerConfig(name="tenant-1", inactive_threshold=60))

    await shared_nats.reset()

    for stream in (EVENTS, "KV_keys"):
        state = (await jetstream.stream_info(stream)).state
        assert (state.messages, state.last_seq, state.consumer_count) == (0, 0, 0)
    with pytest.raises(NotFoundError):
        await jetstream.consumer_info(EVENTS, "tenant-1")
    await client.close()


async def test_a_released_database_is_emptied_for_the_next_test(migrated_databases) -> None:
    await migrated_databases.release()
    url = await migrated_databases.fresh("tenant")
    revision = "SELECT * FROM chassis.alembic_version"
    migrated = await migrated_databases.execute(url, "tenant", revision)
    insert = "INSERT INTO chassis.member (owner, expires_at) VALUES ('a', now())"
    await migrated_databases.execute(url, "tenant", insert)

    await migrated_databases.release()

    assert await migrated_databases.fresh("tenant") == url
    assert await migrated_databases.execute(url, "tenant", "SELECT * FROM chassis.member") == []
    assert await migrated_databases.execute(url, "tenant", revision) == migrated != []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE other (id int)",
        "ALTER TABLE chassis.member ADD COLUMN more int",
        "DROP TABLE chassis.member",
        "ALTER TABLE chassis.member ENABLE ROW LEVEL SECURITY",
        "CREATE OR REPLACE FUNCTION chassis.other() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "GRANT SELECT ON chassis.member TO PUBLIC",
    ],
)
async def test_a_released_database_with_another_shape_is_dropped(migrated_databases, statement) -> None:
    url = await migrated_databases.fresh("tenant")
    await migrated_databases.execute(url, "tenant", statement)

    await migrated_databases.release()

    other = await migrated_databases.fresh("tenant")
    assert other != url
    listed = f"SELECT 1 FROM pg_database WHERE datname = '{url.rpartition('/')[2]}'"
    assert await migrated_databases.execute(other, "tenant", listed) == []
    await migrated_databases.release()


def test_a_failed_finalizer_is_reported_for_the_module_that_left_the_object(pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        class Broken:
            def __init__(self):
                self.cycle = self

            def __del__(self):
                raise RecursionError("too deep")

        @pytest.fixture
        def broken():
            return Broken()
        """
    )
    pytester.makepyfile(
        test_cause="""
        from conftest import Broken

        async def test_cause():
            Broken()
        """,
        test_fixture="""
        def test_fixture(broken):
            pass
        """,
        test_innocent="""
        async def test_innocent():
            pass
        """,
    )
    options = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function", "-W", "error")

    result = pytester.runpytest_subprocess("-p", "paybill_runtime.testing", "-p", "no:cacheprovider", *options)

    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(["ERROR test_cause.py::test_cause*", "ERROR test_fixture.py::test_fixture*"])
