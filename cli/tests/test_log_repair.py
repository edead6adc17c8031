"""The log of a stack, lost, damaged or forged: named, repaired from the outboxes, or declared void."""

import asyncio
import json
import os
import shutil
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from paybill_cli.client.stack import SERVICES
from paybill_cli.exit_codes import ExitCode
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_contracts.tenant import OfferingNoted
from paybill_runtime.clock import new_id
from paybill_runtime.messaging.streams import configurations, connect
from paybill_runtime.telemetry import child
from test_doctor_of_servers import until

pytestmark = pytest.mark.e2e

STREAM = Path("nats", "jetstream", "PAYBILL", "streams", "EVENTS")


def damage(data_dir: Path) -> None:
    """Flips one bit of the first stored offering, while the servers are stopped."""
    for path in (data_dir / STREAM).rglob("*.blk"):
        data = path.read_bytes()
        if (place := data.find(b'"contact_key"')) >= 0:
            path.write_bytes(data[: place + 1] + bytes([data[place + 1] ^ 1]) + data[place + 2 :])
            return
    raise AssertionError("the log has no policy")


def delete(data_dir: Path) -> None:
    shutil.rmtree(data_dir / STREAM)


@pytest.mark.parametrize("fault", [delete, damage])
def test_a_faulty_log_is_rebuilt_and_the_stack_continues(run_stack, paybill, tmp_path, fault) -> None:
    data_dir = tmp_path
    with run_stack(data_dir) as first:
        environment = first.environment
    fault(data_dir)

    started = paybill("up", "--json", "--data-dir", data_dir) if fault is delete else None
    shown = paybill("restore", "stream", "--from-outboxes", "--dry-run", "--data-dir", data_dir)
    done = paybill("restore", "stream", "--from-outboxes", "--yes", "--data-dir", data_dir)
    verified = paybill("replay", "--verify", "--data-dir", data_dir)

    assert shown.code == done.code == verified.code == ExitCode.OK, (shown.err, done.err, verified.out)
    assert ("tenant's outbox has it" in shown.out) == (fault is damage)
    if started is not None:
        assert (started.code, started.error["code"]) == (ExitCode.FAILED, "log_lost")
        assert started.error["next"].startswith("paybill restore stream --from-outboxes")
    with run_stack(data_dir):
        checked = paybill("doctor", **environment)
        assert checked.code == ExitCode.OK, checked.out
        refused = paybill("restore", "stream", "--from-outboxes", "--data-dir", data_dir)
        assert refused.code == ExitCode.CONFLICT


async def create_empty_log(data_dir: Path) -> None:
    url = json.loads((data_dir / "stack.json").read_text())["nats"]["url"]
    client = await connect(url, "steward", (data_dir / "steward" / "nats-steward").read_text().strip())
    await client.jetstream().add_stream(configurations(1)[0])
    await client.close()


def test_doctor_names_the_rebuild_of_a_missing_and_of_an_empty_stream(run_stack, paybill, tmp_path) -> None:
    with run_stack(tmp_path) as first:
        environment = first.environment
        until(lambda: len(paybill("signing-key", "list", **environment).rows) == len(SERVICES))

        def named(text: str) -> bool:
            done = paybill("doctor", **environment)
            assert done.code in {ExitCode.OK, ExitCode.FAILED}
            return "paybill restore stream --from-outboxes" in done.err and text in done.out

        os.kill(int((tmp_path / "nats.lock").read_text()), signal.SIGKILL)
        delete(tmp_path)
        until(lambda: named("the stream does not exist"))
        asyncio.run(create_empty_log(tmp_path))
        until(lambda: named("the stream ends at"))
    shown = paybill("restore", "stream", "--from-outboxes", "--dry-run", "--data-dir", tmp_path)
    done = paybill("restore", "stream", "--from-outboxes", "--yes", "--data-dir", tmp_path)

    assert shown.code == done.code == ExitCode.OK, (shown.err, done.err)
    with run_stack(tmp_path):
        checked = paybill("doctor", "--deep", **environment)
        assert checked.code == ExitCode.OK, checked.out


async def forge(data_dir: Path) -> int:
    """Publishes a fact with the login of the tenant service; returns its sequence."""
    id_ = new_id()
    event = OfferingNoted(offering="forged", keys=("eu-1",), source_hash="e" * 64)
    fact = Fact(event, id_, datetime.now(UTC), 7, Origin(id_, id_, "service:tenant", child("")))
    url = json.loads((data_dir / "stack.json").read_text())["nats"]["url"]
    client = await connect(url, "tenant", (data_dir / "credentials" / "nats-tenant").read_text().strip())
    answer = await client.jetstream().publish(subject_of(event), encode(event), headers=headers_of(fact))
    await client.close()
    return int(answer.seq)


def test_a_damaged_message_is_an_incident_until_the_log_is_rebuilt(run_stack, paybill, tmp_path) -> None:
    with run_stack(tmp_path) as first:
        environment = first.environment
    damage(tmp_path)
    with run_stack(tmp_path):
        deadline = time.monotonic() + 40
        while "cannot be read; the outbox of tenant has it" not in paybill("doctor", **environment).out:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    assert paybill("restore", "stream", "--from-outboxes", "--yes", "--data-dir", tmp_path).code == ExitCode.OK
    with run_stack(tmp_path):
        deadline = time.monotonic() + 40
        while paybill("doctor", **environment).code != ExitCode.OK:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_a_forged_fact_is_listed_and_closed_by_a_void(run_stack, paybill, tmp_path) -> None:
    data_dir = tmp_path
    with run_stack(data_dir) as first:
        environment = first.environment
    with run_stack(data_dir):
        sequence = asyncio.run(forge(data_dir))
    with run_stack(data_dir):
        checked = paybill("doctor", **environment)
        voided = paybill("events", "void", sequence, "--reason", "forged", "--yes", "--json", **environment)
        verified = paybill("replay", "--verify", "--data-dir", data_dir)

    assert checked.code == ExitCode.FAILED
    assert f"the event at sequence {sequence} is not in the outbox of tenant" in checked.out
    assert voided.code == ExitCode.OK, voided.err
    assert json.loads(voided.out.splitlines()[-1])["data"]["decided"] == []
    assert verified.code == ExitCode.OK, verified.out
