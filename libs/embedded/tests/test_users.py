"""NATS users: the permissions that a real server enforces, and their rendering for a cluster."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import nats
import pytest
from nats.js.api import ConsumerConfig, RawStreamMsg
from paybill_embedded import free_port
from paybill_embedded.nats import _binary
from paybill_embedded.users import IDENTITIES, Cluster, permissions, render_conf

JS = "$JS.API"
ALL = (*IDENTITIES, "metering", "crm")


@pytest.fixture(scope="module")
def streams(nats_server):
    asyncio.run(_make_streams(nats_server))
    return nats_server


async def _make_streams(server):
    steward = await _connect(server, "steward")
    js = steward.jetstream()
    await js.add_stream(name="EVENTS", subjects=["paybill.events.>"], allow_direct=True)
    await js.add_stream(name="INTAKE", subjects=["paybill.intake.>"])
    await js.add_stream(name="KV_keys", subjects=["$KV.keys.>"], max_msgs_per_subject=1, allow_direct=True)
    await steward.close()


async def _connect(server, user, **options):
    return await nats.connect(
        server.url,
        user=user,
        password=server.password(user),
        inbox_prefix=f"_INBOX_{user}".encode(),
        allow_reconnect=False,
        **options,
    )


async def _refused(server, user, kind, subjects):
    """Returns the `subjects` that the server refuses; kind: publish or subscribe.

    It responds in order, so a last subject that is always refused shows that the responses are complete.
    """
    errors, complete = [], asyncio.Event()

    async def note(error):
        errors.append(str(error))
        if "sentinel" in errors[-1]:
            complete.set()

    client = await _connect(server, user, error_cb=note)
    for subject in (*subjects, "sentinel"):
        await (client.publish(subject, b"{}") if kind == "publish" else client.subscribe(subject))
    await asyncio.wait_for(complete.wait(), timeout=60)
    await client.close()
    return {subject for subject in subjects if any(f'"{subject}"'.lower() in error for error in errors)}


@pytest.mark.parametrize(
    ("subject", "may"),
    [
        ("paybill.events.3.tenant.tenant_requested.v1", {"tenant"}),
        ("paybill.events.3.billing.account_opened.v1", {"billing"}),
        ("paybill.events.3.provisioner.environment_ready.v1", {"provisioner"}),
        ("paybill.events.3.agent-gateway.tenant_changed.v1", {"agent-gateway"}),
        ("paybill.events.3.operator.thing_done.v1", set()),
        ("paybill.events.3.metering.thing_done.v1", set()),
        ("paybill.intake.metering.usage.recorded.v1", {"metering"}),
        ("paybill.intake.crm.usage.recorded.v1", {"crm"}),
        ("paybill.intake.billing.probe", {"billing"}),
        ("paybill.intake.billing.usage.recorded.v1", set()),
        ("$KV.keys.tenant.a", {"tenant"}),
        ("$KV.keys.billing.a", {"billing"}),
        (f"{JS}.DIRECT.GET.KV_keys.$KV.keys.tenant.a", {"tenant", "billing"}),
        (f"{JS}.DIRECT.GET.KV_keys.$KV.keys.billing.a", {"billing"}),
        (f"{JS}.DIRECT.GET.KV_keys.$KV.keys.provisioner.a", {"provisioner"}),
        (f"{JS}.DIRECT.GET.KV_keys.$KV.keys.agent-gateway.a", {"agent-gateway"}),
        (f"{JS}.DIRECT.GET.KV_keys", set()),
        (f"{JS}.STREAM.MSG.GET.KV_keys", set()),
        (f"{JS}.STREAM.MSG.GET.EVENTS", {"tenant", "billing", "provisioner", "agent-gateway", "operator"}),
        (f"{JS}.CONSUMER.CREATE.EVENTS.mine", {"operator"}),
        (f"{JS}.CONSUMER.CREATE.EVENTS.tenant-32", {"tenant", "operator"}),
        (f"{JS}.CONSUMER.CREATE.EVENTS.tenant-33", {"operator"}),
        (f"{JS}.CONSUMER.CREATE.EVENTS.agent-gateway-1.paybill.events.>", {"agent-gateway", "operator"}),
        (f"{JS}.CONSUMER.MSG.NEXT.EVENTS.billing-1", {"billing", "operator"}),
        (f"{JS}.CONSUMER.CREATE.INTAKE.mine", set()),
        (f"{JS}.CONSUMER.CREATE.INTAKE.billing-1", {"billing"}),
        (f"{JS}.CONSUMER.MSG.NEXT.INTAKE.billing-1", {"billing"}),
        (f"{JS}.CONSUMER.NAMES.INTAKE", {"billing", "operator"}),
        (f"{JS}.CONSUMER.NAMES.KV_keys", {"operator"}),
        (f"{JS}.CONSUMER.CREATE.KV_keys.mine", set()),
        (f"{JS}.STREAM.CREATE.EVENTS", {"steward"}),
        (f"{JS}.STREAM.UPDATE.EVENTS", {"steward"}),
        (f"{JS}.STREAM.UPDATE.KV_keys", {"steward"}),
        (f"{JS}.STREAM.CREATE.OTHER", set()),
        (f"{JS}.STREAM.DELETE.EVENTS", set()),
        (f"{JS}.STREAM.PURGE.EVENTS", set()),
        (f"{JS}.STREAM.MSG.DELETE.EVENTS", set()),
        (f"{JS}.STREAM.SNAPSHOT.KV_keys", set()),
        (f"{JS}.CONSUMER.DELETE.EVENTS.other", {"operator"}),
        (f"{JS}.CONSUMER.DELETE.EVENTS.tenant-1", {"tenant", "operator"}),
        (f"{JS}.CONSUMER.DELETE.INTAKE.other", set()),
        ("$JS.ACK.EVENTS.c.1.1.1.1.0", set()),
        ("$JS.ACK.INTAKE.c.1.1.1.1.0", set()),
        ("_INBOX_tenant.x", set()),
        ("$SYS.REQ.SERVER.PING", set()),
    ],
)
async def test_only_permitted_users_may_publish(nats_server, subject, may):
    refused = {user for user in ALL if await _refused(nats_server, user, "publish", [subject])}

    assert refused == set(ALL) - may


@pytest.mark.parametrize("user", ALL)
async def test_a_user_receives_only_its_own_inbox(nats_server, user):
    others = [f"_INBOX_{other}.>" for other in ALL if other != user]
    foreign = [">", "*", "_INBOX.>", "paybill.>", "paybill.events.3.tenant.tenant_requested.v1", "$JS.>", *others]

    assert await _refused(nats_server, user, "subscribe", [f"_INBOX_{user}.x", *foreign]) == set(foreign)


async def test_a_fact_is_published_by_one_service_and_consumed_by_another(streams):
    tenant, billing = await _connect(streams, "tenant"), await _connect(streams, "billing")

    stored = await tenant.jetstream().publish("paybill.events.3.tenant.tenant_requested.v1", b"hello")
    [message] = await _messages(billing, "EVENTS", 1)
    again: RawStreamMsg = await billing.jetstream().get_msg("EVENTS", seq=stored.seq)
    await tenant.close()
    await billing.close()

    assert message.data == again.data == b"hello"


async def _messages(client, stream, number):
    """Returns the first messages of a stream, each an answer to one request."""
    js = client.jetstream()
    await js.add_consumer(stream, ConsumerConfig(name="billing-1", ack_policy="none", inactive_threshold=60))
    return await (await js.pull_subscribe_bind("billing-1", stream)).fetch(number, timeout=60)


async def test_an_entitled_service_reads_anothers_key(streams):
    tenant, billing = await _connect(streams, "tenant"), await _connect(streams, "billing")

    await tenant.jetstream().publish("$KV.keys.tenant.t1", b"sealed")
    key = await billing.request(f"{JS}.DIRECT.GET.KV_keys.$KV.keys.tenant.t1", b"", timeout=5)
    await tenant.close()
    await billing.close()

    assert key.data == b"sealed"


async def test_a_publisher_gets_an_acknowledgement_and_the_owner_of_the_type_gets_the_event(streams):
    metering, billing = await _connect(streams, "metering"), await _connect(streams, "billing")

    stored = await metering.jetstream().publish("paybill.intake.metering.usage.recorded.v1", b"{}")
    [message] = await _messages(billing, "INTAKE", 1)
    await metering.close()
    await billing.close()

    assert stored.stream == "INTAKE"
    assert message.subject == "paybill.intake.metering.usage.recorded.v1"


async def test_the_servers_file_holds_no_password_and_the_right_one_is_accepted(nats_server):
    text = (nats_server.data_dir / "nats" / "nats-server.conf").read_text()
    secrets = [nats_server.password(user) for user in (*IDENTITIES, "metering")]

    await (await _connect(nats_server, "billing")).close()
    assert await _login_error(nats_server, "billing", secrets[0]) == "-ERR 'Authorization Violation'"
    assert not [secret for secret in secrets if secret in text]
    assert nats_server.configuration() == text, "equal passwords give equal hashes"


async def _login_error(server, user, password):
    """Returns what the server sends last to a client with this password, before it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    login = {"verbose": False, "pedantic": False, "user": user, "pass": password}
    writer.write(f"CONNECT {json.dumps(login)}\r\nPING\r\n".encode())
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return received.decode().splitlines()[-1]


@pytest.mark.parametrize("name", ["", "Billing", "a b", "a.b", "*", ">", "a" * 33, 'a"b', "a\n"])
def test_a_name_with_special_meaning_in_a_subject_is_refused(name):
    with pytest.raises(ValueError, match="is not a user name"):
        permissions(name)


@pytest.mark.parametrize("value", ["", "two\nlines", "nul\0"])
def test_a_value_cannot_break_out_of_its_line(value):
    with pytest.raises(ValueError, match="empty or has a control character"):
        render_conf({"tenant": "x"}, listen="127.0.0.1:4222", store_dir="/data", server_name=value)


def test_a_value_with_quotes_stays_one_value(tmp_path):
    text = render_conf({"tenant": "x"}, listen="127.0.0.1:4222", store_dir=str(tmp_path / 'a"b\\c'), server_name="é")

    assert _checked_by_server(tmp_path, text, {}) == ""


def test_the_servers_own_check_accepts_the_configuration_of_a_cluster(tmp_path):
    cluster = Cluster("paybill", "127.0.0.1:6222", ("nats-route://n2:6222", "nats-route://n3:6222"), "route", "$ROUTE")
    text = render_conf(
        dict.fromkeys(ALL, "secret"),
        listen="127.0.0.1:4222",
        store_dir=str(tmp_path),
        server_name="n1",
        monitor="127.0.0.1:8222",
        cluster=cluster,
    )

    assert _checked_by_server(tmp_path, text, {"ROUTE": "x"}) == ""
    assert "variable reference for 'ROUTE'" in _checked_by_server(tmp_path, text, {})


@pytest.mark.e2e
async def test_three_nodes_with_that_configuration_form_one_cluster(tmp_path):
    """Routes carry user and password in their address; a node without them is refused by the others."""
    clients, routes = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
    addresses = tuple(f"nats-route://route:together@127.0.0.1:{port}" for port in routes)
    passwords = {"steward": "s", "operator": "o"}
    nodes = []
    for number, (client, route) in enumerate(zip(clients, routes, strict=True)):
        text = render_conf(
            passwords,
            listen=f"127.0.0.1:{client}",
            store_dir=str(tmp_path / str(number)),
            server_name=f"n{number}",
            cluster=Cluster("paybill", f"127.0.0.1:{route}", addresses, "route", "together"),
        )
        conf = tmp_path / f"{number}.conf"
        conf.write_text(text)
        log = subprocess.DEVNULL
        nodes.append(await asyncio.create_subprocess_exec(_binary(), "-c", str(conf), stdout=log, stderr=log))
    try:
        steward = await nats.connect(
            f"nats://127.0.0.1:{clients[0]}",
            user="steward",
            password="s",
            inbox_prefix=b"_INBOX_steward",
            max_reconnect_attempts=200,
            reconnect_time_wait=0.05,
            error_cb=_ignore,
        )
        made = await _until_made(steward.jetstream(timeout=2))
        await steward.close()
    finally:
        for node in nodes:
            node.kill()
            await node.wait()

    assert made.config.num_replicas == 3


async def _ignore(_error):
    """Ignores errors of nodes that are still starting."""


async def _until_made(js):
    for _ in range(100):
        try:
            return await js.add_stream(name="EVENTS", subjects=["paybill.events.>"], num_replicas=3)
        except (nats.errors.Error, TimeoutError):
            continue
    pytest.fail("the three nodes formed no cluster")


def _checked_by_server(folder: Path, text: str, environment: dict[str, str]) -> str:
    conf = folder / "nats-server.conf"
    conf.write_text(text)
    done = subprocess.run(
        [_binary(), "-t", "-c", str(conf)],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr
