"""The NATS server as a process: persistence, start, stop and failures."""

import json
import socket
import stat
import time
import urllib.request
from dataclasses import replace

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import StorageType
from paybill_embedded import EmbeddedError, NatsServer, free_port
from paybill_embedded.subscribers import FILE, read_subscribers, store_subscriber


async def _connect(server, user):
    return await nats.connect(
        server.url,
        user=user,
        password=server.password(user),
        inbox_prefix=f"_INBOX_{user}".encode(),
        allow_reconnect=False,
    )


async def _store(server):
    steward = await _connect(server, "steward")
    await steward.jetstream().add_stream(name="EVENTS", subjects=["paybill.events.>"], storage=StorageType.FILE)
    await steward.close()
    tenant = await _connect(server, "tenant")
    await tenant.jetstream().publish("paybill.events.3.tenant.tenant_requested.v1", b"kept")
    await tenant.close()


async def _stored(server):
    operator = await _connect(server, "operator")
    message = await operator.jetstream().get_msg("EVENTS", seq=1)
    await operator.close()
    return message.data


async def test_data_survives_a_restart_and_a_crash(tmp_path):
    with NatsServer(tmp_path) as server:
        port = server.port
        await _store(server)
        server.restart()
        after_restart = await _stored(server)
        server.kill()
        assert not server.running
        server.start()
        after_crash = await _stored(server)

    assert after_restart == after_crash == b"kept"
    assert server.port == port


async def test_another_process_finds_data_and_passwords(tmp_path):
    with NatsServer(tmp_path) as first:
        await _store(first)
    with NatsServer(tmp_path) as second:
        assert await _stored(second) == b"kept"


def _logs_in(server, **credentials):
    """Logs in on a plain socket, since the client leaks sockets when it is refused."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection,
        connection.makefile("rb") as lines,
    ):
        assert lines.readline().startswith(b"INFO ")
        connection.sendall(b"CONNECT " + json.dumps({"verbose": False, **credentials}).encode() + b"\r\nPING\r\n")
        answer = lines.readline().decode().strip()
    assert answer in {"PONG", "-ERR 'Authorization Violation'"}
    return answer == "PONG"


def test_only_a_user_with_its_password_can_connect(nats_server):
    assert _logs_in(nats_server, user="tenant", **{"pass": nats_server.password("tenant")})
    assert not _logs_in(nats_server, user="tenant", **{"pass": "wrong"})
    assert not _logs_in(nats_server, user="tenant", **{"pass": nats_server.password("billing")})
    assert not _logs_in(nats_server, user="nobody", **{"pass": nats_server.password("tenant")})
    assert not _logs_in(nats_server, user="tenant")
    assert not _logs_in(nats_server)


def test_acknowledgements_come_after_fsync(tmp_path):
    with (
        NatsServer(tmp_path, monitor=free_port()) as server,
        urllib.request.urlopen(f"http://127.0.0.1:{server.monitor}/jsz?config=1") as answer,
    ):
        settings = answer.read()

    assert b'"sync_always": true' in settings


def test_passwords_configuration_and_log_are_private(nats_server):
    private = [
        *(nats_server.password_file(user) for user in nats_server.users),
        nats_server.data_dir / "nats" / "nats-server.conf",
        nats_server.log,
    ]

    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in private} == {0o700}
    assert len({nats_server.password(user) for user in nats_server.users}) == len(nats_server.users)
    log = nats_server.log.read_text()
    assert not any(nats_server.password(user) in log for user in nats_server.users)


def test_an_occupied_port_is_refused_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(EmbeddedError) as refused:
        NatsServer(tmp_path, port=listener.getsockname()[1]).start()

    assert refused.value.code == "port_taken"
    assert "\n" not in str(refused.value)


@pytest.mark.e2e
def test_two_servers_never_share_a_store(tmp_path):
    with NatsServer(tmp_path) as server, pytest.raises(EmbeddedError, match=f"process {server.pid}") as refused:
        NatsServer(tmp_path).start()

    assert refused.value.code == "nats_running"


def test_a_failed_start_gives_its_reason(tmp_path):
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "jetstream").write_text("no folder")

    with pytest.raises(EmbeddedError, match=r"status 1: Can't start JetStream.*; read .*nats\.log") as refused:
        NatsServer(tmp_path).start()

    assert refused.value.code == "nats_failed"


def test_a_log_above_ten_mebibytes_is_truncated(tmp_path):
    server = NatsServer(tmp_path)
    server.log.parent.mkdir()
    server.log.write_bytes(b"x" * (10 * 1024 * 1024 + 1))

    with server:
        assert server.log.stat().st_size < 100_000


def test_it_starts_well_below_a_second(tmp_path):
    assert min(_start_s(tmp_path / str(attempt)) for attempt in range(5)) < 2


def _start_s(data_dir):
    begin = time.perf_counter()
    with NatsServer(data_dir):
        return time.perf_counter() - begin


async def test_a_new_subscriber_is_accepted_without_a_restart_and_other_connections_stay_open(tmp_path):
    with NatsServer(tmp_path) as server:
        pid = server.pid
        billing = await _login(server, "billing")
        await _refused(server, "crm")

        store_subscriber(tmp_path, "crm", ("tenant",), batches=False)
        assert server.reload()
        assert not server.reload(), "nothing changed"
        crm = await _login(server, "crm")
        await billing.flush()

        assert (server.pid, billing.stats["reconnects"]) == (pid, 0)
        await crm.close()
        await billing.close()


async def _login(server, user):
    return await nats.connect(server.url, user=user, password=server.password(user), allow_reconnect=False)


async def _refused(server, user):
    async def ignore(_error): ...

    client = Client()
    with pytest.raises(nats.errors.Error):
        await client.connect(
            server.url, user=user, password=server.password(user), allow_reconnect=False, error_cb=ignore
        )
    await client.close()


def test_a_subscriber_keeps_its_consumer_when_its_rights_change(tmp_path):
    first = store_subscriber(tmp_path, "crm", ("tenant",), batches=False)
    second = store_subscriber(tmp_path, "crm", ("billing", "tenant"), batches=True)
    store_subscriber(tmp_path, "warehouse", ("billing",), batches=True)

    assert second == replace(first, contexts=("billing", "tenant"), batches=True)
    assert list(read_subscribers(tmp_path)) == ["crm", "warehouse"]
    assert read_subscribers(tmp_path)["crm"] == second


def test_a_damaged_list_of_subscribers_is_an_error(tmp_path):
    (tmp_path / FILE).write_text('{"subscribers": [{}]}')

    with pytest.raises(EmbeddedError, match="cannot be read"):
        read_subscribers(tmp_path)
