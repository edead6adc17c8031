"""Tests of `paybill events`, except tail: one event, the types, publishing, and failed events."""

import asyncio
import json
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from paybill_cli.client.event_log import EVENTS, connected, stream_info
from paybill_cli.client.stack import Stack
from paybill_cli.exit_codes import ExitCode
from paybill_contracts.schemas import published_events
from polling import until

UNKNOWN_TENANT = "ten_" + "0" * 32


def usage(tenant: str = UNKNOWN_TENANT, **edits: Any) -> dict[str, Any]:
    return {"tenant_id": tenant, "meter": "calls", "quantity": 3, "occurred_at": datetime.now(UTC).isoformat()} | edits


def publish(on_stack, data: str, *more: object, **environment: str):
    return on_stack("events", "publish", "--type", "usage.recorded", "--data", data, *more, "--json", **environment)


def intake_size(stack) -> int:
    async def fetch() -> int:
        async with connected(Stack(data_dir=stack.data_dir).nats()) as client:
            return (await stream_info(client, "INTAKE")).state.last_seq

    return asyncio.run(fetch())


def test_an_event_is_found_by_sequence_and_by_id(on_stack, customers) -> None:
    customers.sign_up()
    lines = on_stack("events", "tail", "--no-follow", "--json").out.splitlines()
    facts = [json.loads(line)["data"] for line in lines]

    for fact in facts[-8:]:
        by_sequence = on_stack("events", "show", fact["sequence"], "--json").data
        by_id = on_stack("events", "show", fact["id"], "--json").data
        assert by_id == by_sequence
        assert fact.items() <= by_id.items()
        assert "fault" not in by_id


def test_an_event_is_shown_with_all_its_fields(on_stack) -> None:
    done = on_stack("events", "show", "1")

    fields = dict(line.split(": ", 1) for line in done.out.splitlines())
    assert fields["sequence"] == "1"
    assert {"type", "id", "cause", "correlation", "actor", "trace_id", "subject", "stored_at"} <= fields.keys()
    assert json.loads(fields["payload"])


@pytest.mark.parametrize(
    "name", ["99999999", "0190a5b0-0000-7000-8000-000000000001", "0290a5b0-0000-7000-8000-00000000000f"]
)
def test_a_missing_event_is_not_found(on_stack, name: str) -> None:
    done = on_stack("events", "show", name, "--json")

    assert (done.code, done.error["code"]) == (ExitCode.NOT_FOUND, "fact_not_found")


@pytest.mark.parametrize("name", ["0", "-1", "abc", "1" * 40, "0190a5b0"])
def test_an_invalid_sequence_or_id_is_refused(on_stack, name: str) -> None:
    assert on_stack("events", "show", name).code == ExitCode.USAGE


def test_every_event_type_is_listed_with_its_schema(paybill) -> None:
    rows = paybill("events", "schema", "--json").data

    assert {row["type"] for row in rows} == {event.TYPE for event in published_events()}
    assert paybill("events", "schema", "usage.recorded", "--json").data["x-paybill"]["key"] == "tenant_id"
    assert json.loads(paybill("events", "schema", "usage.recorded.v1").out)["title"] == "Usage"
    unknown = paybill("events", "schema", "usage.guessed", "--json")
    assert (unknown.code, unknown.error["code"]) == (ExitCode.NOT_FOUND, "unknown_event")


def test_published_usage_is_recorded_by_its_owner(on_stack, customers, tmp_path: Path) -> None:
    tenant = customers.sign_up()
    customers.pay(tenant["checkout_url"])
    until(lambda: on_stack("tenant", "show", tenant["slug"], "--json").data["status"] == "active")
    file = tmp_path / "usage.json"
    file.write_text(json.dumps(usage(tenant["id"])))
    id_ = str(uuid.uuid4())

    first = publish(on_stack, f"@{file}", "--id", id_)
    again = publish(on_stack, f"@{file}", "--id", id_)
    arguments = (
        "events",
        "tail",
        "--no-follow",
        "--json",
        "--tenant",
        tenant["id"],
        "--type",
        "billing.usage_recorded",
    )
    recorded = until(lambda: on_stack(*arguments).out)

    assert first.code == ExitCode.OK
    assert (first.data["id"], first.data["duplicate"], again.data["duplicate"]) == (id_, False, True)
    [fact] = [json.loads(line)["data"] for line in recorded.splitlines()]
    assert (fact["payload"]["usage_id"], fact["payload"]["total"]) == (id_, 3)


def test_a_payload_comes_from_standard_input_too(real_stack) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "paybill_cli", "events", "publish", "--type", "usage.recorded", "--data", "-"],
        input=json.dumps(usage()),
        capture_output=True,
        text=True,
        check=False,
        env=real_stack.environment,
    )

    assert done.returncode == ExitCode.OK
    assert "sequence: " in done.stdout


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "object"),
        ("{}", "tenant_id"),
        (json.dumps(usage(quantity=-1)), "quantity"),
        (json.dumps(usage(quantity=1.5)), "quantity"),
        (json.dumps(usage("acme")), "tenant_id"),
        (json.dumps(usage(occurred_at="yesterday")), "occurred_at"),
        (json.dumps(usage(occurred_at="2026-01-01T00:00:00")), "occurred_at"),
        (json.dumps(usage(meter="Not A Key")), "meter"),
        ("@/nowhere/usage.json", "cannot be read"),
        (json.dumps(usage(more="x" * 70_000)), "bytes"),
    ],
    ids=[
        "empty",
        "broken",
        "list",
        "nothing",
        "negative",
        "float",
        "slug",
        "no time",
        "naive",
        "meter",
        "file",
        "large",
    ],
)
def test_an_invalid_payload_is_refused_with_field_and_reason_and_not_sent(
    on_stack, real_stack, data: str, text: str
) -> None:
    before = intake_size(real_stack)

    done = publish(on_stack, data)

    assert done.code == ExitCode.USAGE
    assert text in done.error["what"] + done.error["why"]
    assert intake_size(real_stack) == before


def test_the_error_does_not_repeat_personal_data(on_stack) -> None:
    done = publish(on_stack, json.dumps(usage("alice@example.org")))

    assert "alice" not in done.err


@pytest.mark.parametrize(
    ("type_", "code", "exit_code"),
    [
        ("billing.usage_recorded", "not_offered", ExitCode.USAGE),
        ("usage.guessed", "unknown_event", ExitCode.NOT_FOUND),
    ],
)
def test_only_intake_events_can_be_published(on_stack, type_: str, code: str, exit_code: ExitCode) -> None:
    done = on_stack("events", "publish", "--type", type_, "--data", "{}", "--json")

    assert (done.code, done.error["code"]) == (exit_code, code)


def test_a_dry_run_validates_and_sends_nothing(on_stack, real_stack) -> None:
    before = intake_size(real_stack)

    done = publish(on_stack, json.dumps(usage()), "--dry-run")

    assert done.code == ExitCode.OK
    assert done.data["payload"]["quantity"] == 3
    assert intake_size(real_stack) == before


def test_publishers_need_their_own_credentials(on_stack, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("wrong")

    unknown = publish(on_stack, json.dumps(usage()), "--publisher", "crm")
    denied = publish(on_stack, json.dumps(usage()), PAYBILL_NATS_PASSWORD_FILE=str(wrong))

    assert (unknown.code, unknown.error["code"]) == (ExitCode.USAGE, "secret_unreadable")
    assert (denied.code, denied.error["code"]) == (ExitCode.DENIED, "publish_denied")


def test_an_id_that_is_not_a_uuid_is_refused(on_stack) -> None:
    done = publish(on_stack, json.dumps(usage()), "--id", "seven")

    assert (done.code, done.error["code"]) == (ExitCode.USAGE, "malformed_fact")


def test_an_event_that_its_owner_refuses_is_listed_with_the_reason(on_stack) -> None:
    publish(on_stack, json.dumps(usage("ten_" + "d" * 32)))

    def listed() -> list[dict[str, Any]]:
        rows = on_stack("events", "quarantine", "--json").data
        return [row for row in rows if "d" * 32 in row["reason"]]

    [row] = until(listed)
    assert (row["service"], row["state"], row["publisher"]) == ("billing", "quarantined", "metering")
    assert on_stack("events", "quarantine").out.splitlines()[0].startswith("id\tservice\tstate\tsubject")


async def add_dead_letter(stack, sequence: int) -> str:
    """Inserts the event at `sequence` as a dead letter of the tenant service. An event ends there only once."""
    async with connected(Stack(data_dir=stack.data_dir).nats()) as client:
        message = await client.jetstream().get_msg(EVENTS, sequence)
    server = json.loads((stack.data_dir / "stack.json").read_text())["postgres"]
    connection = await asyncpg.connect(
        f"postgresql://tenant@{server['host']}:{server['port']}/tenant",
        password=(stack.data_dir / "credentials" / "pg-tenant").read_text().strip(),
    )
    await connection.execute(
        "INSERT INTO chassis.parked (event_id, stream, sequence, partition, tenant, subject, headers, payload, "
        "attempts, dead, next_at, reason) "
        "VALUES ($1, 'EVENTS', $2, 0, '', $3, $4, $5, 8, true, now(), 'ValueError: injected')",
        message.headers["ce-id"],
        sequence,
        message.subject,
        json.dumps(dict(message.headers)),
        message.data,
    )
    await connection.close()
    return str(message.headers["ce-id"])


def dead(on_stack) -> list[dict[str, Any]]:
    return [row for row in on_stack("events", "quarantine", "--json").data if row["state"] == "dead"]


def test_a_dead_letter_is_listed_and_removed_by_a_redrive(on_stack, real_stack) -> None:
    id_ = asyncio.run(add_dead_letter(real_stack, 1))
    [row] = dead(on_stack)
    hint = on_stack("events", "quarantine").err

    dry = on_stack("events", "redrive", id_, "--dry-run", "--json")
    done = on_stack("events", "redrive", id_, "--json")

    assert (row["id"], row["service"], row["reason"]) == (id_, "tenant", "ValueError: injected")
    assert "paybill events redrive" in hint
    assert dry.data["service"] == "tenant"
    assert dry.data["would"] == "retry it now, with all attempts again; meanwhile 0 events of its tenant stay behind it"
    assert done.data == {"service": "tenant", "id": id_, "done": "redriven"}
    assert until(lambda: not [row for row in on_stack("events", "quarantine", "--json").data if row["id"] == id_])


def test_a_dead_letter_is_skipped_with_a_reason_and_a_confirmation(on_stack, real_stack) -> None:
    id_ = asyncio.run(add_dead_letter(real_stack, 2))

    dry = on_stack("events", "skip", id_, "--reason", "injected", "--dry-run")
    unconfirmed = on_stack("events", "skip", id_, "--reason", "injected", "--json")
    done = on_stack("events", "skip", id_, "--reason", "injected", "--yes", "--json")

    assert (unconfirmed.code, unconfirmed.error["code"]) == (ExitCode.USAGE, "confirmation_needed")
    removed = (
        "would remove it, so that tenant never handles it; the queue continues with 0 events of its tenant behind it"
    )
    assert f"{removed}; nothing was changed" in dry.err
    assert done.data == {"service": "tenant", "id": id_, "done": "skipped"}
    assert dead(on_stack) == []


def test_a_dry_run_counts_the_events_of_the_tenant_that_wait_before_and_behind(on_stack, real_stack) -> None:
    first, second = (asyncio.run(add_dead_letter(real_stack, sequence)) for sequence in (3, 4))

    skip = on_stack("events", "skip", first, "--reason", "injected", "--dry-run", "--json")
    redrive = on_stack("events", "redrive", second, "--dry-run", "--json")
    for id_ in (first, second):
        assert on_stack("events", "skip", id_, "--reason", "injected", "--yes").code == ExitCode.OK

    assert skip.data["would"].endswith("; the queue continues with 1 event of its tenant behind it")
    assert redrive.data["would"].startswith("retry it after 1 event of its tenant before it")


@pytest.mark.parametrize(
    ("id_", "code", "exit_code"),
    [
        ("0190a5b0-0000-7000-8000-000000000001", "dead_letter_not_found", ExitCode.NOT_FOUND),
        ("../../v1/tenants", "usage", ExitCode.USAGE),
    ],
)
def test_only_an_event_of_the_retry_queue_can_be_redriven(on_stack, id_: str, code: str, exit_code: ExitCode) -> None:
    done = on_stack("events", "redrive", id_, "--json")

    assert (done.code, done.error["code"]) == (exit_code, code)
