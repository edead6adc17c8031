"""PostgreSQL and NATS servers of a test session.

Both run as in production (SCRAM passwords, one NATS user for each identity) but without fsync: data survives a crash of
the server, not of the machine. Tests of durability start servers of their own.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats.js.api import StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import ServerError
from paybill_embedded.nats import NatsServer
from paybill_embedded.postgres import PostgresServer
from typing_extensions import override

from paybill_runtime.messaging.streams import configurations, connect, ensure

_ADMIN = "test-admin"


def pytest_configure(config: pytest.Config) -> None:
    """Registers our marks."""
    config.addinivalue_line("markers", "own_nats: the test stops, kills or rewrites its NATS server")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """PostgreSQL server of the session."""
    with PostgresServer(tmp_path_factory.mktemp("postgres"), durable=False) as server:
        server.ensure_databases()
        yield server


class SharedNats(NatsServer):
    """NATS server for many tests, with one more user, in the account of JetStream, that may delete streams."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._admin_password = secrets.token_hex(16)

    @override
    def configuration(self) -> str:
        admin = f'    users: [{{user: "{_ADMIN}", password: "{self._admin_password}"}}]\n'
        text = super().configuration().replace("    exports: [\n", f"{admin}    exports: [\n")
        return text.replace("  sync_interval: always\n", "")

    async def reset(self) -> None:
        """Replaces every stream, with its messages and consumers, by a new and empty one."""
        client = await connect(self.url, _ADMIN, self._admin_password)
        jetstream = client.jetstream()
        existing = await jetstream.streams_info()
        await asyncio.gather(*(jetstream.delete_stream(info.config.name or "") for info in existing))
        await asyncio.gather(*(_add(jetstream, configuration) for configuration in configurations(1)))
        await client.close()


async def _add(jetstream: JetStreamContext, configuration: StreamConfig) -> None:
    """Adds a stream. While the server still deletes the files of its predecessor, it refuses, or recovers them."""
    async with asyncio.timeout(10):
        while True:
            try:
                added = await jetstream.add_stream(configuration)
                if not added.state.messages:
                    return
                await jetstream.delete_stream(configuration.name or "")
            except ServerError:
                await asyncio.sleep(0.05)


@pytest.fixture(scope="session")
def shared_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedNats]:
    """NATS server of the session."""
    with SharedNats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
async def nats(request: pytest.FixtureRequest) -> AsyncIterator[NatsServer]:
    """NATS server with new, empty streams; the test's own one when the test has the mark `own_nats`."""
    if request.node.get_closest_marker("own_nats"):
        with NatsServer(request.getfixturevalue("tmp_path") / "nats-data") as own:
            client = await connect(own.url, "steward", own.password("steward"))
            await ensure(client)
            await client.close()
            yield own
        return
    shared: SharedNats = request.getfixturevalue("shared_nats")
    pid = shared.start().pid
    await shared.reset()
    yield shared
    assert shared.pid == pid, "this test stopped the NATS server of all tests: give it the mark own_nats"  # noqa: S101
