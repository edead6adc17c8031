"""The demo's own parts: what it shows of the log, how it waits, and what it says when something is missing."""

import json
from types import SimpleNamespace

import asyncpg
import pytest
from paybill_cli.demo.commands import demo
from paybill_cli.demo.journal import NotObservedError, observed
from paybill_cli.demo.scene import Scene
from paybill_cli.demo.voice import Voice
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
async def say(nats):
    """Publishes facts as the tenant service; returns their envelopes."""
    client = await connect(nats.url, "tenant", nats.password("tenant"))

    async def said(retention_s, cause="request"):
        event = RetentionNoted(tenant_id=TENANT, retention_s=retention_s)
        fact = Fact(event, clock.new_id(), clock.now(), 1, Origin(cause, cause, "user:test", TRACE))
        await client.jetstream().publish(subject_of(event), encode(event), headers=headers_of(fact))
        return fact

    yield said
    await client.close()


@pytest.fixture
def bus(nats):
    return BusAccess(nats.url, nats.data_dir / "credentials")


def lines(capsys):
    return [json.loads(line)["data"] for line in capsys.readouterr().out.splitlines()]


async def test_facts_are_shown_as_they_land_with_the_sequence_of_their_cause(say, bus, capsys):
    async with observed(bus, Voice(Output(json=True)), fresh=True, patience_s=5) as journal:
        first = await say(1)
        await say(2, cause=first.id)

        found = await journal.expect(RetentionNoted, lambda noted: noted.retention_s == 2, tenant=TENANT)

        assert journal.fact_of(found).origin.cause == first.id
    shown = lines(capsys)
    assert [line["sequence"] for line in shown] == [1, 2]
    assert [line["cause_sequence"] for line in shown] == [None, 1]
    assert shown[1]["trace_id"] == "ab" * 16
    assert shown[1]["subject"] == subject_of(found)


async def test_what_was_in_the_log_before_is_known_and_not_shown(say, bus, capsys):
    await say(1)
    async with observed(bus, Voice(Output(json=True)), fresh=False, patience_s=5) as journal:
        await journal.expect(RetentionNoted)
        await say(2)
        await journal.expect(RetentionNoted, after=journal.upto - 1, tenant=TENANT)
        await journal.expect(RetentionNoted, lambda noted: noted.retention_s == 2)

        assert journal.told == 1
    assert [line["sequence"] for line in lines(capsys)] == [2]


async def test_what_does_not_land_in_time_is_named_with_what_did(say, bus):
    async with observed(bus, Voice(Output(json=True)), fresh=True, patience_s=0.3) as journal:
        await say(1)
        with pytest.raises(NotObservedError) as raised:
            await journal.expect(TenantActivated, tenant=TENANT)

        assert "tenant.tenant_activated" in raised.value.what
        assert "#1 paybill.events." in raised.value.seen
        assert "tenant.retention_noted.v1" in raised.value.seen


async def test_without_a_terminal_a_fact_is_one_plain_line_with_nothing_cut_off(say, bus, capsys):
    async with observed(bus, Voice(Output()), fresh=True, patience_s=5) as journal:
        cause = clock.new_id()
        await say(1, cause=cause)
        await journal.expect(RetentionNoted)

    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert cause in line
    assert "ab" * 16 in line
    assert "\x1b" not in line


async def test_only_the_refusal_that_was_meant_counts():
    async def allowed():
        pass

    async def denied():
        raise asyncpg.InsufficientPrivilegeError("permission denied for schema other")

    async def broken():
        raise ConnectionRefusedError("nobody there")

    assert await Scene.refusal(denied, "42501") == (True, "permission denied for schema other")
    assert (await Scene.refusal(denied, "28P01"))[0] is False
    assert await Scene.refusal(allowed, "42501") == (False, "it was allowed")
    assert (await Scene.refusal(broken, "42501"))[0] is False


def test_a_check_that_fails_says_what_was_seen(capsys):
    scene = SimpleNamespace(voice=Voice(Output()))

    Scene.check(scene, "the sky is blue", True, "blue")
    with pytest.raises(NotObservedError) as raised:
        Scene.check(scene, "the sky is blue", False, "grey")

    assert "ok the sky is blue: blue" in capsys.readouterr().out
    assert (raised.value.what, raised.value.seen) == ("the sky is blue", "grey")


async def test_a_stack_that_no_demo_made_is_left_alone(tmp_path):
    (tmp_path / "ports.json").write_text("{}")

    with pytest.raises(CliError) as raised:
        await demo(Output(), data_dir=tmp_path, keep=False)

    assert raised.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["ports.json"]
