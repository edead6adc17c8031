"""`paybill events tail`: every fact once and in order, whatever happens to the connection."""

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from paybill_cli.context import NatsAccess
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output
from paybill_cli.tail import Reading, Wanted
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_contracts.tenant import HoldOrigin, TenantReactivated
from paybill_embedded.nats import NatsServer
from paybill_runtime import clock
from paybill_runtime.messaging.streams import connect, ensure

ORIGIN = Origin("request", "request", "operator:op1", "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01")
EVERYTHING = Wanted(None, None)


def tenant(number: int) -> str:
    return f"ten_{number:032x}"


async def publish(nats: NatsServer, tenants: list[int]) -> None:
    """A fact of each of these tenants, as the tenant service would publish it."""
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    for number in tenants:
        event = TenantReactivated(tenant_id=tenant(number), lifted=HoldOrigin.BILLING)
        fact = Fact(event, clock.new_id(), datetime.now(UTC), 1, ORIGIN)
        await client.jetstream().publish(subject_of(event), encode(event), headers=headers_of(fact))
    await client.close()


def access(nats: NatsServer) -> NatsAccess:
    return NatsAccess(nats.url, "operator", nats.password("operator"))


@contextlib.asynccontextmanager
async def following(nats: NatsServer, wanted: Wanted = EVERYTHING, place: int | None = 0) -> AsyncIterator[None]:
    """A tail that runs while the block does."""
    task = asyncio.create_task(Reading(Output(json=True), wanted, follow=True).follow(access(nats), place))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[list[dict[str, Any]], str]:
    captured = capsys.readouterr()
    return [json.loads(line)["data"] for line in captured.out.splitlines()], captured.err


@pytest.mark.own_nats
async def test_over_many_disconnects_every_fact_is_shown_once_and_in_order(
    nats: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    talk = ""

    async def all_seen() -> bool:
        nonlocal talk
        facts, said = printed(capsys)
        seen.extend(fact["sequence"] for fact in facts)
        talk += said
        return len(seen) >= 60

    async with following(nats):
        for turn in range(6):
            await publish(nats, list(range(turn * 10, turn * 10 + 10)))
            if turn < 5:
                await asyncio.to_thread(nats.stop)
                await asyncio.to_thread(nats.start)
        async with asyncio.timeout(30):
            while not await all_seen():  # noqa: ASYNC110  # what it prints is no asyncio.Event
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        await all_seen()
    _, farewell = printed(capsys)

    assert seen == list(range(1, 61))
    assert "connected at seq " in talk
    assert "resumed after seq " in talk
    assert "gap 0" in talk
    assert "gap: " not in talk
    assert farewell == "to go on from here: paybill events tail --from 61\n"


async def test_without_a_place_it_begins_with_what_is_new(nats: NatsServer, capsys: pytest.CaptureFixture[str]) -> None:
    await publish(nats, [1, 2])

    async with following(nats, place=None):
        await asyncio.sleep(0.5)
        await publish(nats, [3])
        await asyncio.sleep(0.5)

    facts, talk = printed(capsys)
    assert [fact["sequence"] for fact in facts] == [3]
    assert "connected at seq 2, reading from seq 3" in talk


async def test_only_what_is_wanted_is_shown(nats: NatsServer, capsys: pytest.CaptureFixture[str]) -> None:
    await publish(nats, [1, 2, 1, 3])

    for wanted in (Wanted(tenant(1), None), Wanted(None, "tenant.tenant_re"), Wanted(tenant(2), "billing.")):
        await Reading(Output(json=True), wanted, follow=False).once(access(nats), 0)

    facts, talk = printed(capsys)
    assert [fact["sequence"] for fact in facts] == [1, 3, 1, 2, 3, 4]
    assert "gap: " not in talk


@pytest.mark.own_nats
async def test_a_log_that_lost_its_end_is_not_read_on_in_silence(
    nats: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    await publish(nats, [1, 2, 3])
    reading = Reading(Output(json=True), EVERYTHING, follow=True)
    task = asyncio.create_task(reading.follow(access(nats), 0))
    await asyncio.sleep(0.5)
    await asyncio.to_thread(nats.stop)
    shutil.rmtree(nats.data_dir / "nats" / "jetstream")
    await asyncio.to_thread(nats.start)
    client = await connect(nats.url, "steward", nats.password("steward"))
    await ensure(client)
    await client.close()

    with pytest.raises(CliError) as error:
        await asyncio.wait_for(task, 20)

    assert (error.value.code, error.value.exit_code) in {
        ("another_log", ExitCode.VERIFICATION_FAILED),
        ("no_stream", ExitCode.NOT_FOUND),
    }
    assert len(printed(capsys)[0]) == 3


async def test_wrong_credentials_are_told_and_not_tried_for_ever(nats: NatsServer) -> None:
    reading = Reading(Output(), EVERYTHING, follow=True)

    with pytest.raises(CliError) as error:
        await asyncio.wait_for(reading.follow(NatsAccess(nats.url, "operator", "wrong"), 0), 5)

    assert (error.value.code, error.value.exit_code) == ("nats_denied", ExitCode.DENIED)


def test_the_whole_log_of_a_stack_is_printed_without_a_hole(on_stack, customers) -> None:
    customers.sign_up()

    plain = on_stack("events", "tail", "--no-follow")
    lines = on_stack("events", "tail", "--no-follow", "--json").out.splitlines()

    assert plain.code == ExitCode.OK
    assert plain.out.splitlines()[0].split("\t") == [
        "sequence",
        "time",
        "type",
        "aggregate",
        "revision",
        "actor",
        "cause",
        "trace_id",
    ]
    assert [int(row[0]) for row in plain.rows] == list(range(1, len(plain.rows) + 1))
    assert {len(row) for row in plain.rows} == {8}
    assert len(lines) >= len(plain.rows)
    assert json.loads(lines[0])["kind"] == "event"


def test_one_tenants_facts_are_found_by_slug_and_by_id(on_stack, customers) -> None:
    tenant_ = customers.sign_up()

    by_slug = on_stack("events", "tail", "--no-follow", "--json", "--tenant", tenant_["slug"], "--type", "tenant.")
    by_id = on_stack("events", "tail", "--no-follow", "--json", "--tenant", tenant_["id"], "--type", "tenant.")

    facts = [json.loads(line)["data"] for line in by_slug.out.splitlines()]
    assert {fact["tenant"] for fact in facts} == {tenant_["id"]}
    assert facts[0]["type"] == "tenant.tenant_requested"
    assert by_slug.out == by_id.out


def test_reading_begins_where_it_is_told_to(on_stack) -> None:
    rows = on_stack("events", "tail", "--no-follow", "--from", 3).rows

    assert rows[0][0] == "3"


def test_a_type_that_cannot_be_is_refused(on_stack) -> None:
    assert on_stack("events", "tail", "--type", "no such >").code == ExitCode.USAGE


def test_ctrl_c_ends_it_and_says_how_to_go_on(real_stack, tmp_path) -> None:
    command = [sys.executable, "-m", "paybill_cli", "events", "tail", "--from", "1"]
    shown = tmp_path / "shown"
    with (
        shown.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True, env=real_stack.environment) as process,
    ):
        deadline = time.monotonic() + 10
        while len(shown.read_text().splitlines()) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)

    last = int(shown.read_text().splitlines()[-1].split("\t")[0])
    assert process.returncode == ExitCode.INTERRUPTED
    assert f"to go on from here: paybill events tail --from {last + 1}" in err
    assert "Traceback" not in err
