"""Tests of `paybill subscriber`."""

import asyncio
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from nats.js.errors import NotFoundError
from paybill_cli.client.event_log import connected
from paybill_cli.client.stack import NatsAccess
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_client import Fact, Subscriber, Unsealer
from paybill_contracts.tenant import TenantRequested
from paybill_embedded import NatsServer
from paybill_embedded.credentials import password
from paybill_embedded.subscribers import store_subscriber
from paybill_runtime.messaging.streams import connect, ensure
from paybill_runtime.testing import until

CREATE = ("subscriber", "create")


def test_a_created_subscriber_reads_the_events_of_its_contexts(on_stack, real_stack, customers) -> None:
    done = on_stack(*CREATE, "crm", "--contexts", "tenant", "--json")
    path = real_stack.data_dir / "clients" / "crm.json"

    assert done.code == ExitCode.OK, done.err
    assert done.data | {"file": "", "types": []} == {
        "name": "crm",
        "contexts": ["tenant"],
        "types": [],
        "batches": False,
        "open_sealed": [],
        "file": "",
        "created": True,
        "rights": "applied",
    }
    assert Path(done.data["file"]) == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "next: copy" in done.err

    tenant = customers.sign_up()
    assert tenant["slug"] in asyncio.run(_requested(path, tenant["slug"]))


async def _requested(path: Path, until_slug: str) -> list[str]:
    """Returns the slugs of the requested tenants, up to this one."""
    subscriber = Subscriber(path)
    slugs: list[str] = []

    @subscriber.on(TenantRequested)
    async def requested(event: TenantRequested, _: Fact) -> None:
        slugs.append(event.slug)
        if event.slug == until_slug:
            subscriber.stop()

    async with asyncio.timeout(30):
        await subscriber.run()
    return slugs


def test_creating_it_again_changes_its_rights_and_keeps_its_password(on_stack, real_stack) -> None:
    path = real_stack.data_dir / "clients" / "again.json"
    assert on_stack(*CREATE, "again", "--contexts", "tenant").code == ExitCode.OK
    before = json.loads(path.read_text())

    done = on_stack(*CREATE, "again", "--contexts", "billing, tenant", "--batches", "--json")
    after = json.loads(path.read_text())

    assert done.code == ExitCode.OK, done.err
    assert (done.data["created"], done.data["contexts"]) == (False, ["billing", "tenant"])
    assert (after["password"], after["consumer"]) == (before["password"], before["consumer"])
    assert (before["contexts"], after["contexts"]) == ([], ["billing", "tenant"])


def test_a_subscriber_opens_personal_data_until_the_right_is_withdrawn(on_stack, real_stack, customers) -> None:
    path = real_stack.data_dir / "clients" / "opening.json"
    before = customers.sign_up()
    done = on_stack(*CREATE, "opening", "--contexts", "tenant", "--open-sealed", "tenant", "--json")
    assert (done.code, done.data["open_sealed"]) == (ExitCode.OK, ["tenant"]), done.err
    after = customers.sign_up()

    opened = asyncio.run(_opened(path, {before["slug"], after["slug"]}))
    withdrawn = on_stack(*CREATE, "opening", "--contexts", "tenant", "--json")

    assert len(opened) == 2
    assert all("@" in str(email) for email in opened)
    assert (withdrawn.code, withdrawn.data["open_sealed"]) == (ExitCode.OK, []), withdrawn.err
    assert "private_key" not in json.loads(path.read_text())
    tail = on_stack("events", "tail", "--no-follow", "--json").out
    facts = [json.loads(line)["data"] for line in tail.splitlines()]
    assert [fact["type"] for fact in facts if fact.get("aggregate") == "key-recipient/opening"] == [
        "tenant.data_keys_shared",
        "tenant.data_keys_withdrawn",
    ]


async def _opened(path: Path, slugs: set[str]) -> list[str | None]:
    """Returns the addresses of the tenants with these slugs."""
    subscriber = Subscriber(path)
    emails: list[str | None] = []
    async with Unsealer(path) as unsealer:

        @subscriber.on(TenantRequested)
        async def requested(event: TenantRequested, _: Fact) -> None:
            if event.slug in slugs:
                emails.append(await unsealer.unseal(event.contact_email))
            if len(emails) == len(slugs):
                subscriber.stop()

        async with asyncio.timeout(30):
            await subscriber.run()
    return emails


def test_the_credentials_file_can_be_written_elsewhere(on_stack, tmp_path) -> None:
    path = tmp_path / "warehouse.json"

    done = on_stack(*CREATE, "warehouse", "--contexts", "billing", "--types", "billing.invoice_paid", "--out", path)

    assert done.code == ExitCode.OK, done.err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["name"] == "warehouse"


def test_a_dry_run_changes_nothing(on_stack, real_stack) -> None:
    done = on_stack(*CREATE, "dry", "--contexts", "tenant", "--dry-run", "--json")

    assert (done.code, done.data["contexts"]) == (ExitCode.OK, ["tenant"])
    assert not (real_stack.data_dir / "clients" / "dry.json").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["Crm", "--contexts", "tenant"], "cannot be the name"),
        (["billing", "--contexts", "tenant"], "cannot be the name"),
        (["metering", "--contexts", "tenant"], "cannot be the name"),
        (["crm", "--contexts", "tenants,billing"], "there is no context tenants"),
        (["crm", "--contexts", "usage"], "there is no context usage"),
        (["crm", "--contexts", " , "], "no context is named"),
        (["crm", "--contexts", "tenant", "--types", "billing.invoice_paid"], "is no event type of tenant"),
        (["crm", "--contexts", "billing", "--open-sealed", "tenant"], "may not read the context tenant"),
        (["crm", "--contexts", "billing", "--open-sealed", "billing"], "seals no personal data"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_created(paybill, tmp_path, arguments, text) -> None:
    done = paybill(*CREATE, *arguments, "--data-dir", tmp_path / "none", "--json")

    assert done.code == ExitCode.USAGE
    assert text in done.error["what"]
    assert not (tmp_path / "none").exists()


def test_a_deleted_subscriber_cannot_read_any_more(on_stack, real_stack) -> None:
    on_stack(*CREATE, "lost", "--contexts", "tenant")
    credentials = json.loads((real_stack.data_dir / "clients/lost.json").read_text())

    async def refused() -> bool:
        return not await _accepted(credentials["servers"][0], "lost", credentials["password"])

    assert not asyncio.run(refused())
    listed = on_stack("subscriber", "list", "--json").data
    preview = on_stack("subscriber", "delete", "lost", "--dry-run")
    deleted = on_stack("subscriber", "delete", "lost", "--yes")
    again = on_stack("subscriber", "delete", "lost", "--yes")

    assert "lost" in {row["name"] for row in listed}
    assert "would delete its login, its rights and its position in the log; nothing was changed" in preview.err
    assert (preview.code, deleted.code, again.code) == (ExitCode.OK, ExitCode.OK, ExitCode.NOT_FOUND)
    asyncio.run(until(refused))
    assert not (real_stack.data_dir / "clients/lost.json").exists()
    assert "lost" not in {row["name"] for row in on_stack("subscriber", "list", "--json").data}


async def _accepted(url: str, name: str, secret: str) -> bool:
    """Returns whether NATS accepts the login."""
    try:
        async with connected(NatsAccess(url, name, secret)):
            return True
    except CliError:
        return False


def test_a_subscriber_that_cannot_be_applied_at_first_is_applied_later(on_stack, real_stack) -> None:
    url = json.loads((real_stack.data_dir / "stack.json").read_text())["nats"]["url"]
    obstacle = real_stack.data_dir / "nats" / "nats-server.conf.draft"
    messages = real_stack.data_dir / "messages"

    async def reported() -> bool:
        return "the list of subscribers is not applied" in messages.read_text()

    obstacle.mkdir()
    try:
        later = store_subscriber(real_stack.data_dir, "later", ("tenant",), batches=False)
        asyncio.run(until(reported))
    finally:
        obstacle.rmdir()

    secret = password(real_stack.data_dir, "nats-later")

    async def reaches_the_streams() -> bool:
        try:
            async with connected(NatsAccess(url, "later", secret)) as client:
                with pytest.raises(NotFoundError):
                    await client.jetstream().consumer_info("EVENTS", later.consumer)
                return True
        except CliError:
            return False

    asyncio.run(until(reaches_the_streams))
    assert on_stack("subscriber", "delete", "later", "--yes").code == ExitCode.OK


def test_without_a_stack_nothing_is_created(paybill, tmp_path) -> None:
    done = paybill(*CREATE, "crm", "--contexts", "tenant", "--data-dir", tmp_path)

    assert done.code == ExitCode.UNREACHABLE
    assert list(tmp_path.iterdir()) == []


def test_for_another_nats_the_lines_of_its_configuration_are_printed(paybill, tmp_path) -> None:
    with NatsServer(tmp_path / "nats") as server:
        asyncio.run(_make_streams(server))

        done = paybill(
            *CREATE,
            "crm",
            *("--contexts", "tenant", "--data-dir", tmp_path / "data", "--nats-url", server.url),
            PAYBILL_NATS_PASSWORD_FILE=str(server.password_file("operator")),
        )
        consumer = json.loads((tmp_path / "data/clients/crm.json").read_text())["consumer"]

    assert done.code == ExitCode.OK, done.err
    assert "rights: add it to the configuration of NATS" in done.out
    assert '"ID_crm": {' in done.err
    assert '[{user: "crm", password: "$2a$04$' in done.err
    assert f'"$JS.API.CONSUMER.MSG.NEXT.EVENTS.{consumer}"' in done.err
    assert "--signal reload" in done.err


async def _make_streams(server: NatsServer) -> None:
    client = await connect(server.url, "steward", server.password("steward"))
    await ensure(client)
    await client.close()


@pytest.mark.e2e
def test_a_subscriber_is_known_after_a_restart_of_the_stack(paybill, tmp_path) -> None:
    for start in range(2):
        command = [sys.executable, "-m", "paybill_cli", "up", "--json", "--data-dir", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            try:
                done = paybill(*CREATE, "crm", "--contexts", "tenant", "--json", PAYBILL_DATA_DIR=str(tmp_path))
                assert (done.code, done.data["created"]) == (ExitCode.OK, start == 0), done.err
            finally:
                process.terminate()
                process.communicate()
