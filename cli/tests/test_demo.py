"""Tests of the parts of the demo: printing the log, waiting for events, and failed checks."""

import json
from types import SimpleNamespace

import asyncpg
import pytest
from paybill_cli.demo.command import demo
from paybill_cli.demo.printer import Printer
from paybill_cli.demo.recorder import NotObservedError, recorded
from paybill_cli.demo.session import DemoSession
from paybill_cli.errors import CliError
from paybill_cli.output import Output
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_contracts.tenant import RetentionNoted, TenantActivated
from paybill_runtime import clock
from paybill_runtime.messaging.streams import connect
from paybill_stack.access import BusAccess

TENANT = "ten_" + "0" * 32
TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


@pytest.fixture
async def publish(nats):
    """Publishes events as the tenant service; returns their envelopes."""
    client = await connect(nats.url, "tenant", nats.password("tenant"))

    async def publish_one(retention_s, cause="request"):
        event = RetentionNoted(tenant_id=TENANT, retention_s=retention_s)
        fact = Fact(event, clock.new_id(), clock.now(), 1, Origin(cause, cause, "user:test", TRACE))
        await client.jetstream().publish(subject_of(event), encode(event), headers=headers_of(fact))
        return fact

    yield publish_one
    await client.close()


@pytest.fixture
def bus(nats):
    return BusAccess(nats.url, nats.data_dir / "credentials")


def lines(capsys):
    return [json.loads(line)["data"] for line in capsys.readouterr().out.splitlines()]


async def test_events_are_printed_on_arrival_with_the_sequence_of_their_cause(publish, bus, capsys):
    async with recorded(bus, Printer(Output(json=True)), fresh=True, timeout_s=60) as recorder:
        first = await publish(1)
        await publish(2, cause=first.id)

        found = await recorder.expect(RetentionNoted, lambda noted: noted.retention_s == 2, tenant=TENANT)

        assert recorder.fact_of(found).origin.cause == first.id
    printed = lines(capsys)
    assert [line["sequence"] for line in printed] == [1, 2]
    assert [line["cause_sequence"] for line in printed] == [None, 1]
    assert printed[1]["trace_id"] == "ab" * 16
    assert printed[1]["subject"] == subject_of(found)


async def test_earlier_events_are_recorded_and_not_printed(publish, bus, capsys):
    await publish(1)
    async with recorded(bus, Printer(Output(json=True)), fresh=False, timeout_s=60) as recorder:
        await recorder.expect(RetentionNoted)
        await publish(2)
        await recorder.expect(RetentionNoted, after=recorder.last_sequence - 1, tenant=TENANT)
        await recorder.expect(RetentionNoted, lambda noted: noted.retention_s == 2)

        assert recorder.printed == 1
    assert [line["sequence"] for line in lines(capsys)] == [2]


async def test_the_error_names_the_missing_event_and_the_newest_ones(publish, bus):
    async with recorded(bus, Printer(Output(json=True)), fresh=True, timeout_s=3) as recorder:
        await publish(1)
        with pytest.raises(NotObservedError) as raised:
            await recorder.expect(TenantActivated, tenant=TENANT)

        assert "tenant.tenant_activated" in raised.value.check
        assert "#1 paybill.events." in raised.value.observed
        assert "tenant.retention_noted.v1" in raised.value.observed


async def test_without_a_terminal_an_event_is_one_plain_complete_line(publish, bus, capsys):
    async with recorded(bus, Printer(Output()), fresh=True, timeout_s=60) as recorder:
        cause = clock.new_id()
        await publish(1, cause=cause)
        await recorder.expect(RetentionNoted)

    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert cause in line
    assert "ab" * 16 in line
    assert "\x1b" not in line


async def test_only_the_expected_sqlstate_is_a_refusal():
    async def allowed():
        pass

    async def denied():
        raise asyncpg.InsufficientPrivilegeError("permission denied for schema other")

    async def broken():
        raise ConnectionRefusedError("connection refused")

    assert await DemoSession.refusal(denied, "42501") == (True, "permission denied for schema other")
    assert (await DemoSession.refusal(denied, "28P01"))[0] is False
    assert await DemoSession.refusal(allowed, "42501") == (False, "it was allowed")
    assert (await DemoSession.refusal(broken, "42501"))[0] is False


def test_a_failed_check_raises_the_observed_value(capsys):
    session = SimpleNamespace(printer=Printer(Output()))

    DemoSession.check(session, "the sky is blue", True, "blue")
    with pytest.raises(NotObservedError) as raised:
        DemoSession.check(session, "the sky is blue", False, "grey")

    assert "ok the sky is blue: blue" in capsys.readouterr().out
    assert (raised.value.check, raised.value.observed) == ("the sky is blue", "grey")


async def test_a_stack_that_no_demo_created_is_not_changed(tmp_path):
    (tmp_path / "ports.json").write_text("{}")

    with pytest.raises(CliError) as raised:
        await demo(Output(), data_dir=tmp_path, keep=False)

    assert raised.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["ports.json"]
