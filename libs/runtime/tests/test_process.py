"""Service as a process: exit codes, shutdown, log lines and spans."""

import asyncio
import contextlib
import gzip
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from paybill_contracts.event import partition_of
from paybill_runtime.clock import new_id
from paybill_runtime.http.auth import Role, make_key
from paybill_runtime.messaging.streams import connect
from paybill_runtime.testing import until
from paybill_runtime.testing.signing import make_test_identity, publish_signed

pytestmark = pytest.mark.e2e


class _Process:
    """Service that runs as a child process of the test."""

    def __init__(self, child: asyncio.subprocess.Process, lines: list[dict]) -> None:
        self.child = child
        self.lines = lines

    async def logged(self, text: str) -> dict:
        async def line() -> dict | None:
            return next((line for line in self.lines if text in line["message"]), None)

        return await until(line)

    async def stopped(self) -> int:
        self.child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            return await self.child.wait()


class _Home:
    """Environment of a service, with ways to start it."""

    def __init__(self, environment: dict[str, str], api_key: str) -> None:
        self.environment = environment
        self.api_key = api_key
        self._tasks: list[asyncio.Task] = []

    async def run(self, *arguments: str, **changes: str | None) -> tuple[int, str, str]:
        """Returns exit code, stdout and stderr of a command that ends by itself."""
        child = await self._child(arguments, changes)
        async with asyncio.timeout(60):
            out, err = await child.communicate()
        return child.returncode, out.decode(), err.decode()

    @contextlib.asynccontextmanager
    async def serving(self, **changes: str | None) -> AsyncIterator[_Process]:
        """Runs a service, and kills it at the end of the block if it still runs."""
        child = await self._child((), changes)
        process = _Process(child, [])
        reading = asyncio.create_task(self._read(process))
        try:
            yield process
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
            await reading

    async def _child(self, arguments, changes) -> asyncio.subprocess.Process:
        merged = {name: value for name, value in (self.environment | changes).items() if value is not None}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "paybill_tenant",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=merged,
        )

    @staticmethod
    async def _read(process: _Process) -> None:
        async for line in process.child.stderr:
            process.lines.append(json.loads(line))


@pytest.fixture
async def home(postgres, databases, nats, tmp_path) -> _Home:
    identities = tmp_path / "identities"
    for name in ("tenant", "billing"):
        make_test_identity(identities, name)
    key = make_key("test", "test", Role.ADMIN, ("*",), datetime.now(UTC) + timedelta(days=1))
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [key.stored]}))
    environment = {
        "PATH": os.environ["PATH"],
        "PAYBILL_DATABASE_URL": await databases.fresh("tenant"),
        "PAYBILL_DATABASE_PASSWORD_FILE": str(postgres.password_file("tenant")),
        "PAYBILL_NATS_URL": nats.url,
        "PAYBILL_NATS_USER": "tenant",
        "PAYBILL_NATS_PASSWORD_FILE": str(nats.password_file("tenant")),
        "PAYBILL_API_KEYS_FILE": str(keys),
        "PAYBILL_IDENTITY_DIR": str(identities),
        "PAYBILL_SECRETS_DIR": str(tmp_path / "secrets"),
    }
    return _Home(environment, key.raw)


def _port(line: dict) -> int:
    return int(line["message"].split(" (pid")[0].rpartition(":")[2])


async def test_migrating_an_empty_database_is_idempotent(home, databases) -> None:
    await databases._create("tenant_empty", "template0", "tenant")
    url = home.environment["PAYBILL_DATABASE_URL"].rpartition("/")[0] + "/tenant_empty"

    replay = await home.run("replay", PAYBILL_DATABASE_URL=url)
    first = await home.run("migrate", PAYBILL_DATABASE_URL=url)
    again = await home.run("migrate", PAYBILL_DATABASE_URL=url)

    assert replay[0] == 2
    assert "is of another version; run: python -m paybill_tenant migrate" in replay[2]
    assert (first[0], again[0]) == (0, 0), first
    versions = await databases.execute(url, "tenant", "SELECT version_num FROM chassis.alembic_version")
    assert [row["version_num"] for row in versions] == ["0012"]


async def test_replay_reports_equality_or_the_difference(home, databases) -> None:
    equal = await home.run("replay")
    await databases.execute(
        home.environment["PAYBILL_DATABASE_URL"],
        "tenant",
        "INSERT INTO offerings (id, revision, state) VALUES ('ghost', 1, '{}')",
    )
    different = await home.run("replay")

    assert (equal[0], json.loads(equal[1])["equal"]) == (0, True)
    assert (different[0], json.loads(different[1])["faults"][0]["kind"]) == (9, "unexpected_row")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"PAYBILL_DATABASE_URL": None}, "PAYBILL_DATABASE_URL: it is required"),
        ({"PAYBILL_HTTP_PORT": "65536"}, "PAYBILL_HTTP_PORT"),
        ({"PAYBILL_LOG_LEVEL": "loud"}, "PAYBILL_LOG_LEVEL"),
        ({"PAYBILL_IDENTITY_DIR": "/nonexistent"}, "the identity tenant.key cannot be read"),
        ({"PAYBILL_API_KEYS_FILE": "/nonexistent"}, "API keys"),
        ({"PAYBILL_DATABASE_PASSWORD_FILE": "/nonexistent"}, "the secret file nonexistent cannot be read"),
        ({"PAYBILL_DATABASE_PASSWORD_FILE": "/dev/null"}, "PAYBILL_DATABASE_URL"),
    ],
)
async def test_a_wrong_setting_is_one_line_that_names_it(home, changes, named) -> None:
    code, _, stderr = await home.run(**changes)

    assert code == 2, stderr
    assert named in stderr.splitlines()[-1]
    assert "Traceback" not in stderr


async def test_a_database_of_a_newer_version_is_not_changed(home, databases) -> None:
    url = home.environment["PAYBILL_DATABASE_URL"]
    await databases.execute(url, "tenant", "UPDATE chassis.alembic_version SET version_num = '9999'")

    code, _, stderr = await home.run("migrate")

    assert code == 2, stderr
    assert "migrated by a newer version of this service" in stderr.splitlines()[-1]


async def test_rarely_needed_modules_are_not_imported(home) -> None:
    """Saves memory in every service: Alembic is needed for migrations only, exporters with an endpoint only."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; import paybill_tenant.app; "
        "sys.exit(' '.join({'alembic', 'opentelemetry.exporter', 'requests', 'mako'} & sys.modules.keys()) or 0)",
        env=home.environment,
    )

    assert await child.wait() == 0


@pytest.mark.parametrize(
    ("command", "changes", "named"),
    [
        ("migrate", {"PAYBILL_DATABASE_URL": "postgresql://tenant@127.0.0.1:1/tenant"}, "the database does not answer"),
        ("replay", {"PAYBILL_DATABASE_URL": "postgresql://tenant@127.0.0.1:1/tenant"}, "the database does not answer"),
        ("replay", {"PAYBILL_NATS_URL": "nats://127.0.0.1:1"}, "NATS does not answer"),
    ],
)
async def test_an_unreachable_dependency_is_named(home, command, changes, named) -> None:
    code, _, stderr = await home.run(command, **changes)

    assert code == 10, stderr
    assert named in stderr
    assert "Traceback" not in stderr


async def test_an_occupied_port_is_reported_in_one_line(home) -> None:
    async with home.serving() as first:
        port = _port(await first.logged("listens on"))

        code, _, stderr = await home.run(PAYBILL_HTTP_PORT=str(port))

        assert code == 2
        assert f"127.0.0.1:{port} cannot be bound" in stderr.splitlines()[-1]


async def test_a_signal_shuts_the_service_down_cleanly(home, databases) -> None:
    async with home.serving() as process:
        await process.logged("listens on")

        assert await process.stopped() == 0

    held = "SELECT count(*) AS held FROM chassis.lease WHERE owner <> ''"
    assert (await databases.execute(home.environment["PAYBILL_DATABASE_URL"], "tenant", held))[0]["held"] == 0
    assert [line for line in process.lines if line["level"] in {"error", "critical"}] == []


async def test_a_signal_ends_the_wait_for_postgresql(home) -> None:
    async with home.serving(PAYBILL_DATABASE_URL="postgresql://tenant@127.0.0.1:1/tenant") as process:
        await process.logged("PostgreSQL does not answer")

        assert await process.stopped() == 0


async def test_a_loop_that_fails_starts_again_in_the_same_process(home, databases) -> None:
    url = home.environment["PAYBILL_DATABASE_URL"]
    async with home.serving() as process:
        port = _port(await process.logged("listens on"))
        await databases.execute(url, "tenant", "ALTER TABLE chassis.member RENAME TO gone")
        await process.logged("the loop leases failed (2 in a row)")

        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            during = await client.get("/readyz")
            await databases.execute(url, "tenant", "ALTER TABLE chassis.gone RENAME TO member")

            async def recovered() -> bool:
                return (await client.get("/readyz")).json()["status"] == "ok"

            await until(recovered)
        assert await process.stopped() == 0

    assert (during.status_code, during.json()["status"]) == (200, "degraded")
    reason = r"leases failed \((\d+) in a row\) and starts again: UndefinedTableError"
    failures = re.search(reason, during.json()["checks"]["loops"])
    assert failures is not None
    assert int(failures[1]) >= 2


class _Collector:
    """OTLP endpoint that stores the received spans."""

    def __init__(self) -> None:
        self.spans: list = []
        self.metrics = 0
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/traces":
                    request = ExportTraceServiceRequest.FromString(body)
                    for resource in request.resource_spans:
                        collector.spans += [span for scope in resource.scope_spans for span in scope.spans]
                else:
                    collector.metrics += 1
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector():
    made = _Collector()
    thread = Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


async def test_log_lines_and_spans_of_a_request_share_its_trace_up_to_the_handler(
    home, collector, publish, offerings, log
) -> None:
    trace = "5a" * 16
    async with home.serving(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as process:
        port = _port(await process.logged("listens on"))
        await publish(*offerings)
        await log.facts("tenant.offering_noted", at_least=2)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answer = await client.post(
                "/v1/tenants/nobody/resume",
                headers={"Authorization": f"Bearer {home.api_key}", "traceparent": f"00-{trace}-{'1' * 16}-01"},
            )
        refused = (await log.facts("tenant.request_refused"))[0]
        assert await process.stopped() == 0

    assert answer.status_code == 404
    request = next(line for line in process.lines if line["message"].startswith("POST /v1/tenants/nobody/resume: 404"))
    assert (request["trace"], request["service"], request["level"]) == (trace, "tenant", "info")
    assert datetime.fromisoformat(request["time"]).tzinfo is not None
    ours = [span for span in collector.spans if span.parent_span_id.hex() == "1" * 16]
    assert [span.trace_id.hex() for span in ours] == [trace]
    assert ours[0].name.startswith("POST /v1/tenants/")
    assert refused.origin.traceparent == f"00-{trace}-{ours[0].span_id.hex()}-01"
    handled = [span for span in collector.spans if span.name.startswith("handle ")]
    noted = await log.facts("tenant.offering_noted", at_least=2)
    assert {span.span_id.hex() for span in handled} == {fact.origin.traceparent[36:52] for fact in noted}
    assert collector.metrics > 0


async def test_a_log_line_about_a_tenant_s_fact_has_the_tenant_and_the_trace(home, nats) -> None:
    tenant, trace = "ten_" + "d" * 32, "6b" * 16
    subject = f"paybill.events.{partition_of(tenant)}.provisioner.environment_ready.v1"
    headers = {"ce-id": new_id(), "pb-tenant": tenant, "traceparent": f"00-{trace}-{'1' * 16}-01"}
    headers["ce-source"] = "paybill/provisioner"
    client = await connect(nats.url, "provisioner", nats.password("provisioner"))
    async with home.serving() as process:
        await process.logged("listens on")

        await publish_signed(client, "provisioner", subject, headers, b'{"from": "a newer version"}')
        line = await process.logged("is moved to the retry queue")
        await client.close()

    assert (line["tenant"], line["trace"]) == (tenant, trace)
    assert "InvalidEventError" in line["error"]


async def test_an_unreachable_otlp_endpoint_changes_nothing(home) -> None:
    async with home.serving(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1") as process:
        port = _port(await process.logged("listens on"))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert (await client.get("/healthz")).status_code == 200

        assert await process.stopped() == 0
