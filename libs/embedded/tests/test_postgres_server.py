"""The PostgreSQL server as a process: persistence, start, stop, failures and recovery."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import time
from pathlib import Path

import asyncpg
import pytest
from paybill_embedded import EmbeddedError, PostgresServer

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs PostgreSQL as itself")


async def _as_superuser(server, statement):
    connection = await asyncpg.connect(server.url("postgres"), password=server.password("postgres"))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def _lives(pid):
    """Returns whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def server(tmp_path):
    with PostgresServer(tmp_path) as server:
        yield server


@pytest.mark.e2e
async def test_data_survives_a_restart_and_a_crash(server):
    port = server.port
    await _as_superuser(server, "CREATE TABLE kept AS SELECT 42 AS n")
    server.restart()
    after_restart = await _as_superuser(server, "SELECT n FROM kept")
    server.kill()
    assert not server.running
    server.start()
    after_crash = await _as_superuser(server, "SELECT n FROM kept")

    assert after_restart == after_crash == 42
    assert server.port == port


@pytest.mark.e2e
async def test_a_crash_ends_blocked_sessions(server):
    session = await asyncpg.connect(server.url("postgres"), password=server.password("postgres"))
    pid = await session.fetchval("SELECT pg_backend_pid()")
    os.kill(pid, signal.SIGSTOP)
    server.kill()
    server.start()
    session.terminate()

    assert not _lives(pid)


@pytest.mark.e2e
async def test_a_crash_leaves_no_stale_lock_even_if_its_process_id_is_reused(server):
    server.kill()
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    pid_file = server.data_dir / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
    server.start()
    stranger.kill()
    await stranger.wait()

    assert await _as_superuser(server, "SELECT 1") == 1


@pytest.mark.e2e
async def test_a_server_that_died_is_detected_and_can_be_started_again(server):
    os.kill(server.pid, signal.SIGKILL)
    while server.running:
        time.sleep(0.01)  # noqa: ASYNC251 - nothing else runs here
    server.start()

    assert await _as_superuser(server, "SELECT 1") == 1


@pytest.mark.e2e
def test_two_servers_never_share_a_cluster(server):
    with pytest.raises(EmbeddedError, match=f"process {server.pid}\\) works on") as refused:
        PostgresServer(server.data_dir).start()

    assert refused.value.code == "postgres_running"


@pytest.mark.e2e
async def test_no_server_starts_while_a_session_of_a_killed_one_exists(server):
    session = await asyncpg.connect(server.url("postgres"), password=server.password("postgres"))
    pid = await session.fetchval("SELECT pg_backend_pid()")
    os.kill(pid, signal.SIGSTOP)
    os.kill(server.pid, signal.SIGKILL)
    try:
        with pytest.raises(EmbeddedError, match="another server"):
            PostgresServer(server.data_dir).start()
    finally:
        os.kill(pid, signal.SIGKILL)
        session.terminate()
    server.start()

    assert await _as_superuser(server, "SELECT 1") == 1


@pytest.mark.e2e
async def test_a_new_process_finds_the_databases_and_creating_them_again_changes_nothing(tmp_path):
    with PostgresServer(tmp_path) as first:
        first.ensure_databases()
        connection = await asyncpg.connect(first.url("tenant"), password=first.password("tenant"))
        await connection.execute("CREATE TABLE kept (n int)")
        await connection.close()
    with PostgresServer(tmp_path) as second:
        second.ensure_databases()
        connection = await asyncpg.connect(second.url("tenant"), password=second.password("tenant"))
        tables = await connection.fetchval("SELECT count(*) FROM kept")
        await connection.close()

    assert tables == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("TimeZone", "UTC"),
        ("server_encoding", "UTF8"),
        ("shared_buffers", "64MB"),
    ],
)
async def test_it_is_durable_local_and_uses_little_memory(postgres_server, setting, value):
    assert await _as_superuser(postgres_server, f"SHOW {setting}") == value


def test_passwords_settings_and_log_are_private(postgres_server):
    roles = ("postgres", "tenant", "billing", "provisioner", "agent-gateway", "provisioner_driver")
    private = [postgres_server.log, *map(postgres_server.password_file, roles)]
    private += [postgres_server.data_dir / "postgres" / name for name in ("pg_hba.conf", "postgresql.conf")]

    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in private} == {0o700}


async def test_errors_are_logged_without_the_data_that_caused_them(postgres_server):
    await _as_superuser(postgres_server, "CREATE TABLE people AS SELECT 'ada@example.com' AS email")
    await _as_superuser(postgres_server, "CREATE UNIQUE INDEX ON people (email)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await _as_superuser(postgres_server, "INSERT INTO people VALUES ('ada@example.com')")
    log = postgres_server.log.read_text()

    assert "duplicate key value violates" in log
    assert "ada@example.com" not in log
    assert not any(postgres_server.password(role) in log for role in ("postgres", "tenant", "billing"))


def test_an_occupied_port_is_refused_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(EmbeddedError) as refused:
        PostgresServer(tmp_path, port=listener.getsockname()[1]).start()

    assert refused.value.code == "port_taken"
    assert "\n" not in str(refused.value)


def test_a_cluster_of_another_version_is_refused_with_its_reason(server):
    server.stop()
    (server.data_dir / "postgres" / "PG_VERSION").write_text("12\n")

    with pytest.raises(EmbeddedError, match=r"status 1: .*FATAL:  database files are incompatible.*; read ") as refused:
        server.start()

    assert refused.value.code == "postgres_failed"


def test_a_partial_cluster_is_created_anew(tmp_path):
    (tmp_path / "postgres.draft").mkdir()
    (tmp_path / "postgres.draft" / "PG_VERSION").write_text("18\n")

    with PostgresServer(tmp_path) as server:
        assert server.running


@pytest.mark.e2e
@ROOT_ONLY
async def test_root_that_cannot_use_a_namespace_runs_it_as_another_user(tmp_path):
    """Below a 0700 folder of an ordinary user, as under sudo, root in a namespace has no access."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, 12345, 12345)
    with PostgresServer(home / "data") as server:
        server.ensure_databases()
        owner = (home / "data" / "postgres").stat().st_uid
        current = Path(f"/proc/{server.pid}").stat().st_uid
        assert await _as_superuser(server, "SELECT 1") == 1
        server.kill()
        server.start()
        assert await _as_superuser(server, "SELECT 1") == 1

    assert owner == current == 65534


@pytest.mark.e2e
@ROOT_ONLY
async def test_a_change_between_the_two_ways_changes_the_clusters_owner(tmp_path):
    home = tmp_path / "home"
    with PostgresServer(home / "a") as first:
        await _as_superuser(first, "CREATE TABLE kept AS SELECT 42 AS n")
    home.chmod(0o700)
    os.chown(home, 12345, 12345)
    shutil.copytree(home / "a", home / "b")
    with PostgresServer(home / "b") as second:
        assert await _as_superuser(second, "SELECT n FROM kept") == 42


@pytest.mark.e2e
def test_it_starts_well_below_three_seconds(tmp_path):
    assert min(_start_s(tmp_path / str(attempt)) for attempt in range(3)) < 3


def _start_s(data_dir):
    begin = time.perf_counter()
    with PostgresServer(data_dir):
        return time.perf_counter() - begin
