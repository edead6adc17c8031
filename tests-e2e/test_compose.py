"""docker-compose.yml follows the rules of production: its credentials are created here, its NATS cluster is started."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bcrypt
import pytest
import yaml
from fastapi.routing import APIRoute
from nats.aio.client import Client
from nats.js.api import PubAck
from nats.js.errors import NoStreamResponseError
from nats_cluster import running_nodes
from paybill_billing.webhooks.api import receive
from paybill_embedded import free_port
from paybill_embedded.compose import NODES
from paybill_embedded.postgres import POSTGRESQL_CONF, SESSION_BYTES
from paybill_embedded.users import SERVICES
from paybill_runtime.messaging import streams
from paybill_runtime.security.identity import Identity
from paybill_runtime.testing import until

ROOT = Path(__file__).resolve().parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
RUNNING = [name for name, container in CONTAINERS.items() if container.get("restart") != "no"]


def make_credentials(out: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "paybill_embedded", "compose", f"--out={out}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("credentials")
    created = make_credentials(out, "--stand-in")
    assert created.returncode == 0, created.stderr
    return out


def test_nats_is_a_cluster_of_three_that_syncs_before_it_acknowledges(credentials: Path) -> None:
    for node in NODES:
        conf = (credentials / "nats" / f"{node}.conf").read_text()

        # Versions 2.14.0 to 2.15.1 lose a replicated stream: docs/decisions/0015-conditions-on-a-cluster.md.
        assert CONTAINERS[node]["image"] == "nats:2.12.8-alpine"
        assert CONTAINERS[node]["command"] == ["--config", f"/credentials/{node}.conf"]
        assert "sync_interval: always" in conf
        assert set(re.findall(r"@(nats-\d):6222", conf)) == set(NODES) - {node}
    assert CONTAINERS["streams"]["environment"]["PAYBILL_NATS_REPLICAS"] == str(len(NODES))


def test_postgres_has_the_limits_of_the_embedded_server() -> None:
    command = CONTAINERS["postgres"]["command"]

    assert command[0] == "postgres"
    assert [each for each in command[2::2] if each.replace("=", " = ") not in POSTGRESQL_CONF.splitlines()] == []
    assert {each.split("=")[0] for each in command[2::2]} == {
        "max_connections",
        "reserved_connections",
        "temp_file_limit",
    }
    assert CONTAINERS["postgres"]["ulimits"] == {"data": SESSION_BYTES}


@pytest.mark.parametrize("name", RUNNING)
def test_a_permanent_container_has_a_health_check(name: str) -> None:
    assert CONTAINERS[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_has_no_privileges(name: str) -> None:
    container = CONTAINERS[name]

    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    if name != "init":
        assert "cap_add" not in container
        assert not container.get("user", "10001").startswith(("0", "root"))


@pytest.mark.parametrize("name", CONTAINERS)
def test_ports_are_published_on_loopback_only(name: str) -> None:
    assert [port for port in CONTAINERS[name].get("ports", []) if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", CONTAINERS)
def test_no_secret_is_in_an_environment(name: str) -> None:
    environment: dict[str, str] = CONTAINERS[name].get("environment", {})
    secret = {key for key in environment if re.search("PASS|SECRET|KEY|TOKEN|CREDENTIAL", key)}

    assert [key for key in secret if not environment[key].startswith(("/credentials", "/var/lib/paybill"))] == []
    assert [value for value in environment.values() if re.search(r"://[^/@]*:[^/@]*@", value)] == []


@pytest.mark.parametrize("name", sorted(set(CONTAINERS) - {"init"}))
def test_a_container_gets_its_own_credentials_and_no_others(name: str) -> None:
    mounted = [volume.split(":")[0] for volume in CONTAINERS[name]["volumes"]]
    owner = {"streams": "steward", "databases": "postgres", "operator-key": "operator"}.get(name, name)
    owner = "nats" if name in NODES else owner

    assert [volume for volume in mounted if volume.endswith("credentials")] == [f"{owner}-credentials"]
    assert "vault" not in mounted


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_a_nats_user_of_its_own(service: str, credentials: Path) -> None:
    environment = CONTAINERS[service]["environment"]
    conf = (credentials / "nats/nats-1.conf").read_text()
    password = (credentials / service / "nats-password").read_text().strip()
    [(user, hashed)] = re.findall(rf'user: "({service})", password: "([^"]+)"', conf)

    assert environment["PAYBILL_NATS_USER"] == user == service
    assert bcrypt.checkpw(password.encode(), hashed.encode())
    assert password not in conf
    assert sum(password in folder.read_text() for folder in credentials.glob("*/nats-password")) == 1


@pytest.mark.parametrize("service", SERVICES)
def test_every_credential_that_a_service_names_is_created(service: str, credentials: Path) -> None:
    named = [value for value in CONTAINERS[service]["environment"].values() if str(value).startswith("/credentials/")]
    created = [credentials / service / value.removeprefix("/credentials/") for value in named]

    assert created
    assert [path for path in created if not path.exists()] == []
    assert [path for path in credentials.rglob("*") if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_knows_all_its_settings(service: str, credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service ignores unknown variables at its start, so only this test finds a misspelt one."""
    variables = {key: value for key, value in CONTAINERS[service]["environment"].items() if key.startswith("PAYBILL_")}
    for key, value in variables.items():
        default = re.sub(r"\$\{\w+:-(.*)\}", r"\1", value)
        monkeypatch.setenv(key, default.replace("/credentials", str(credentials / service)))
    settings = import_module(f"paybill_{service.replace('-', '_')}.settings").Settings

    assert {key.removeprefix("PAYBILL_").lower() for key in variables} <= set(settings.model_fields)
    assert settings().nats_user == service


def test_the_stripe_fake_sends_its_webhooks_to_billings_webhook_route(credentials: Path) -> None:
    (url,) = [word for word in CONTAINERS["stripe-fake"]["command"] if word.startswith("--webhook-url=")]
    context: Any = SimpleNamespace(database=None, fast_routes={}, bodies_refused={})
    paths = [route.path for route in receive.router(context, {}).routes if isinstance(route, APIRoute)]

    assert (credentials / "billing/stripe-webhook-secrets").read_text().split()
    assert url.removeprefix("--webhook-url=http://billing:8080").replace("stripe", "{provider}") in paths


def test_services_can_encrypt_values_for_each_other(credentials: Path) -> None:
    tenant, billing = (Identity.load(credentials / name / "identity", name) for name in ("tenant", "billing"))

    assert billing.decrypt(tenant.encrypt_for(b"a data key", "billing")) == b"a data key"
    assert not (credentials / "billing/identity/tenant.key").exists()


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_knows_only_the_hash_of_the_operators_key(service: str, credentials: Path) -> None:
    raw = (credentials / "operator/api-key").read_text().strip()
    (key,) = json.loads((credentials / service / "api-keys.json").read_text())["keys"]

    assert re.fullmatch(rf"pbk_{key['id']}_[\w-]{{43}}", raw)
    assert key["sha256"] == hashlib.sha256(raw.removeprefix(f"pbk_{key['id']}_").encode()).hexdigest()
    assert raw not in (credentials / service / "api-keys.json").read_text()


def test_creating_credentials_again_changes_none(credentials: Path) -> None:
    kept = {path: path.read_bytes() for path in credentials.rglob("*") if path.is_file() and path.suffix != ".sql"}

    assert make_credentials(credentials, "--stand-in").returncode == 0
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_missing_stripe_key_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    refused = make_credentials(tmp_path / "out", f"--given={tmp_path}")

    assert refused.returncode == 1
    assert "stripe-api-key" in refused.stderr
    assert "deploy/dev.env" in refused.stderr


def test_a_stripe_key_of_an_account_reaches_billing_alone(tmp_path: Path) -> None:
    (tmp_path / "stripe-api-key").write_text("rk_test_given")
    (tmp_path / "stripe-webhook-secrets").write_text("whsec_new\nwhsec_old\n")
    out = tmp_path / "out"

    assert make_credentials(out, f"--given={tmp_path}").returncode == 0
    holders = {path.parent.name for path in out.rglob("*") if path.is_file() and b"rk_test_given" in path.read_bytes()}
    assert holders == {"billing"}
    assert (out / "billing/stripe-webhook-secrets").read_text().split() == ["whsec_new", "whsec_old"]


@pytest.fixture
def cluster(credentials: Path, tmp_path: Path) -> Iterator[str]:
    """Runs the three nodes with the created configurations, with the containers' addresses mapped to loopback."""
    ports = {f"0.0.0.0:{port}": {node: free_port() for node in NODES} for port in (4222, 6222)}
    health = {node: free_port() for node in NODES}
    configurations = {}
    for node in NODES:
        conf = (credentials / "nats" / f"{node}.conf").read_text().replace('"/data"', f'"{tmp_path / node}"')
        conf = conf.replace("127.0.0.1:8222", f"127.0.0.1:{health[node]}")
        for listen, port in ports.items():
            conf = conf.replace(listen, f"127.0.0.1:{port[node]}")
        for peer, route in ports["0.0.0.0:6222"].items():
            conf = conf.replace(f"@{peer}:6222", f"@127.0.0.1:{route}")
        configurations[node] = conf
    with running_nodes(tmp_path, configurations, health):
        yield f"nats://127.0.0.1:{ports['0.0.0.0:4222']['nats-1']}"


SIGN_UP = "paybill.events.0.tenant.tenant_requested.v1"


async def test_a_healthy_cluster_accepts_facts_on_three_nodes_and_only_from_their_owner(
    cluster: str, credentials: Path
) -> None:
    async with AsyncExitStack() as stack:

        async def connect(user: str) -> Client:
            password = (credentials / user / "nats-password").read_text().strip()
            client = await streams.connect(cluster, user, password)
            stack.push_async_callback(client.close)
            return client

        steward, tenant, billing = [await connect(user) for user in ("steward", "tenant", "billing")]
        await streams.ensure(steward, replicas=len(NODES))
        info = await steward.jetstream().stream_info("EVENTS")

        async def published() -> PubAck | None:
            try:
                return await tenant.jetstream().publish(SIGN_UP, b"{}", timeout=5)
            except NoStreamResponseError:  # a node has a new stream a moment after its creation
                return None

        stored = await until(published, timeout_s=30)

        assert info.cluster is not None
        assert len(info.cluster.replicas or []) == len(NODES) - 1
        assert stored.seq == 1
        with pytest.raises(TimeoutError):
            await billing.jetstream().publish(SIGN_UP, b"{}", timeout=1)


def test_docker_compose_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker command with compose on this machine")
    command = [docker, "compose", "--env-file", "deploy/dev.env", "--file", "docker-compose.yml", "config", "--quiet"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stderr
