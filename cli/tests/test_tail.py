"""Tests of `paybill events tail`: every event once and in order, over all reconnects."""

import asyncio
import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from paybill_cli.client.stack import NatsAccess
from paybill_cli.commands.tail import Filter, Tail
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_contracts.tenant import HoldOrigin, TenantReactivated
from paybill_embedded.nats import NatsServer
from paybill_runtime import clock
from paybill_runtime.messaging.streams import connect, ensure
from paybill_runtime.testing import cancel, until

ORIGIN = Origin("request", "request", "operator:op1", "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01")
EVERYTHING = Filter(None, None)


def tenant(number: int) -> str:
    return f"ten_{number:032x}"


async def publish(nats: NatsServer, tenants: list[int]) -> None:
    """Publishes an event of each of these tenants, like the tenant service."""
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    for number in tenants:
        event = TenantReactivated(tenant_id=tenant(number), lifted=HoldOrigin.BILLING)
        fact = Fact(event, clock.new_id(), datetime.now(UTC), 1, ORIGIN)
        await client.jetstream().publish(subject_of(event), encode(event), headers=headers_of(fact))
    await client.close()


def access(nats: NatsServer) -> NatsAccess:
    return NatsAccess(nats.url, "operator", nats.password("operator"))


@contextlib.asynccontextmanager
async def running_tail(nats: NatsServer, position: int | None = 0) -> AsyncIterator[None]:
    """Runs a tail while the block runs."""
    task = asyncio.create_task(Tail(Output(json=True), EVERYTHING, follow=True).follow(access(nats), position))
    try:
        yield
    finally:
        await cancel(task)


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[list[dict[str, Any]], str]:
    captured = capsys.readouterr()
    return [json.loads(line)["data"] for line in captured.out.splitlines()], captured.err


async def until_printed(
    capsys: pytest.CaptureFixture[str], condition: Callable[[list[dict[str, Any]], str], object]
) -> tuple[list[dict[str, Any]], str]:
    """Returns the events and messages that are printed from now on, once they satisfy the condition."""
    events: list[dict[str, Any]] = []
    messages = ""

    async def satisfied() -> object:
        nonlocal messages
        more, text = printed(capsys)
        events.extend(more)
        messages += text
        return condition(events, messages)

    await until(satisfied)
    return events, messages


@pytest.mark.e2e
@pytest.mark.own_nats
async def test_every_event_is_printed_once_and_in_order_over_many_reconnects(
    nats: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    sequences: list[int] = []
    messages = ""

    async def all_printed() -> bool:
        nonlocal messages
        events, text = printed(capsys)
        sequences.extend(event["sequence"] for event in events)
        messages += text
        return len(sequences) >= 60

    async with running_tail(nats):
        for turn in range(6):
            await publish(nats, list(range(turn * 10, turn * 10 + 10)))
            if turn < 5:
                await asyncio.to_thread(nats.stop)
                await asyncio.to_thread(nats.start)
        async with asyncio.timeout(60):
            while not await all_printed():  # noqa: ASYNC110  # its output sets no asyncio.Event
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        await all_printed()
    _, last_message = printed(capsys)

    assert sequences == list(range(1, 61))
    assert "connected at seq " in messages
    assert "resumed after seq " in messages
    assert "gap 0" in messages
    assert "gap: " not in messages
    assert last_message == "to continue: paybill events tail --from 61\n"


async def test_without_a_position_it_starts_with_new_events(
    nats: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    await publish(nats, [1, 2])

    async with running_tail(nats, position=None):
        _, messages = await until_printed(capsys, lambda _, messages: "connected at seq " in messages)
        await publish(nats, [3])
        events, _ = await until_printed(capsys, lambda events, _: events)

    assert [event["sequence"] for event in events] == [3]
    assert "connected at seq 2, reading from seq 3" in messages


async def test_only_matching_events_are_printed(nats: NatsServer, capsys: pytest.CaptureFixture[str]) -> None:
    await publish(nats, [1, 2, 1, 3])

    for filter_ in (Filter(tenant(1), None), Filter(None, "tenant.tenant_re"), Filter(tenant(2), "billing.")):
        await Tail(Output(json=True), filter_, follow=False).read(access(nats), 0)

    events, messages = printed(capsys)
    assert [event["sequence"] for event in events] == [1, 3, 1, 2, 3, 4]
    assert "gap: " not in messages


@pytest.mark.e2e
@pytest.mark.own_nats
async def test_a_log_that_lost_its_last_events_is_an_error(
    nats: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    await publish(nats, [1, 2, 3])
    tail = Tail(Output(json=True), EVERYTHING, follow=True)
    task = asyncio.create_task(tail.follow(access(nats), 0))
    await until_printed(capsys, lambda events, _: len(events) == 3)
    await asyncio.to_thread(nats.stop)
    shutil.rmtree(nats.data_dir / "nats" / "jetstream")
    await asyncio.to_thread(nats.start)
    client = await connect(nats.url, "steward", nats.password("steward"))
    await ensure(client)
    await client.close()

    with pytest.raises(CliError) as error:
        await asyncio.wait_for(task, 60)

    assert (error.value.code, error.value.exit_code) in {
        ("another_log", ExitCode.VERIFICATION_FAILED),
        ("no_stream", ExitCode.NOT_FOUND),
    }
    assert printed(capsys)[0] == []


async def test_wrong_credentials_are_an_error_without_retries(nats: NatsServer) -> None:
    tail = Tail(Output(), EVERYTHING, follow=True)

    with pytest.raises(CliError) as error:
        await asyncio.wait_for(tail.follow(NatsAccess(nats.url, "operator", "wrong"), 0), 60)

    assert (error.value.code, error.value.exit_code) == ("nats_denied", ExitCode.DENIED)


def test_the_whole_log_of_a_stack_is_printed_without_a_gap(on_stack, customers) -> None:
    customers.sign_up()

    plain = on_stack("events", "tail", "--no-follow")
    lines = on_stack("events", "tail", "--no-follow", "--json").out.splitlines()

    assert plain.code == ExitCode.OK
    assert plain.out.splitlines()[0].split("\t") == ["sequence", "time", "tenant", "event"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", row[1]) for row in plain.rows)
    assert [int(row[0]) for row in plain.rows] == list(range(1, len(plain.rows) + 1))
    assert {len(row) for row in plain.rows} == {4}
    assert len(lines) >= len(plain.rows)
    assert json.loads(lines[0])["kind"] == "event"


def test_events_of_a_tenant_are_selected_by_slug_and_by_id(on_stack, customers) -> None:
    tenant_ = customers.sign_up()

    by_slug = on_stack("events", "tail", "--no-follow", "--json", "--tenant", tenant_["slug"], "--type", "tenant.")
    by_id = on_stack("events", "tail", "--no-follow", "--json", "--tenant", tenant_["id"], "--type", "tenant.")

    events = [json.loads(line)["data"] for line in by_slug.out.splitlines()]
    assert {event["tenant"] for event in events} == {tenant_["id"]}
    assert events[0]["type"] == "tenant.tenant_requested"
    assert by_slug.out == by_id.out


def test_a_tenants_events_read_as_a_story(on_stack, customers) -> None:
    tenant_ = customers.sign_up()
    arguments = ("events", "tail", "--no-follow", "--tenant", tenant_["slug"], "--since", "10m")

    rows = on_stack(*arguments).rows
    verbose = on_stack(*arguments, "-v").out.splitlines()

    assert {row[2] for row in rows} == {tenant_["slug"]}
    assert rows[0][3] == f"signed up as {tenant_['slug']} for {tenant_['plan']} in {tenant_['region']}"
    assert "    type         tenant.tenant_requested" in verbose
    assert any(line.startswith("    payload      {") and '"slug"' in line for line in verbose)


@pytest.mark.parametrize("options", [("--since", "soon"), ("--since", "10m", "--from", "3")])
def test_an_invalid_start_is_refused(on_stack, options) -> None:
    refused = on_stack("events", "tail", *options)

    assert (refused.code, "paybill events tail --since 10m" in refused.err) == (ExitCode.USAGE, True)


def test_reading_starts_at_the_named_sequence(on_stack) -> None:
    rows = on_stack("events", "tail", "--no-follow", "--from", 3).rows

    assert rows[0][0] == "3"


@pytest.mark.parametrize("prefix", ["no such >", "tenant.tenent_"])
def test_a_type_that_does_not_exist_is_refused(on_stack, prefix: str) -> None:
    refused = on_stack("events", "tail", "--no-follow", "--type", prefix)

    assert (refused.code, refused.out) == (ExitCode.USAGE, "")
    assert f"no type starts with '{prefix}'" in refused.err


def test_ctrl_c_ends_it_and_prints_the_command_that_continues(real_stack, tmp_path) -> None:
    command = [sys.executable, "-m", "paybill_cli", "events", "tail", "--from", "1"]
    file = tmp_path / "output"
    with (
        file.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True, env=real_stack.environment) as process,
    ):
        deadline = time.monotonic() + 60
        while len(file.read_text().splitlines()) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    last = int(file.read_text().splitlines()[-1].split("\t")[0])
    assert process.returncode == ExitCode.INTERRUPTED
    assert f"to continue: paybill events tail --from {last + 1}" in err
    assert "Traceback" not in err
