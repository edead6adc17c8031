"""One NATS and one PostgreSQL for each test file; a test that stops or breaks a server starts its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from paybill_embedded import NatsServer, PostgresServer


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats"), publishers=["crm"]) as server:
        yield server


@pytest.fixture(scope="module")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server.ensure_databases()


@pytest.fixture
def file_in_the_way(tmp_path: Path) -> Path:
    """Returns a path at which no user can create a folder, root included."""
    path = tmp_path / "file"
    path.write_text("in the way")
    return path
