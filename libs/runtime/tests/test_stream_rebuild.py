"""The stream EVENTS, lost and rebuilt from the outboxes: same sequences, gaps filled, nothing handled again."""

import asyncio
import shutil
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.messaging.streams import EVENTS, StreamLostError, connect, ensure
from paybill_runtime.replay import stream_rebuild
from paybill_runtime.replay.stream_rebuild import MARKER_SUBJECT, Source, rebuild, survey
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until
from paybill_tenant.app import service

pytestmark = pytest.mark.own_nats


@asynccontextmanager
async def access(served, nats):
    """Provides the outbox of the tenant service, the steward and the operator."""
    clients = [await connect(nats.url, user, nats.password(user)) for user in ("tenant", "steward", "operator")]
    try:
        yield [Source("tenant", served.running.database, clients[0])], clients[1], clients[2]
    finally:
        for client in clients:
            await client.close()


async def messages(nats) -> dict[int, tuple]:
    """Returns the subject, the id and the payload of every message, by sequence."""
    client = await connect(nats.url, "operator", nats.password("operator"))
    found = {}
    state = (await client.jetstream().stream_info(EVENTS)).state
    for sequence in range(state.first_seq, state.last_seq + 1):
        message = await client.jetstream().get_msg(EVENTS, sequence)
        found[sequence] = message.subject, (message.headers or {}).get("ce-id"), message.data
    await client.close()
    return found


async def is_ready(served) -> bool:
    return (await served.client.get("/readyz")).json()["status"] == "ok"


async def drained(served) -> bool:
    return (await served.client.get("/v1/operations")).json()["outbox_waiting"] == 0


def lose_stream(nats) -> None:
    nats.stop()
    shutil.rmtree(nats.data_dir / "nats" / "jetstream" / "PAYBILL" / "streams" / EVENTS)
    nats.start()


@pytest.mark.parametrize("interrupted", [False, True], ids=["at once", "ended and continued"])
async def test_a_lost_stream_is_rebuilt_and_the_service_continues(
    start, served, sign_up, nats, interrupted, monkeypatch
) -> None:
    for number in range(3):
        await sign_up(served, f"tenant-{number}")
    await until(lambda: drained(served))
    settings = served.running.settings
    before = await messages(nats)
    await served.running.__aexit__()
    await asyncio.to_thread(lose_stream, nats)

    monkeypatch.setattr(stream_rebuild, "CHUNK", 2)
    async with access(served, nats) as (sources, steward, operator):
        found = await survey(sources, operator)
        assert not found.exists
        if interrupted:
            found.last -= 2
            await rebuild(sources, steward, found)
            found = await survey(sources, operator)
            assert found.present < found.last
        await rebuild(sources, steward, found)
        await ensure(steward)  # as each start does
        assert (await survey(sources, operator)).is_complete

    after = await messages(nats)
    own = {sequence: message for sequence, message in before.items() if ".tenant." in message[0]}
    assert {sequence: message for sequence, message in after.items() if sequence in own} == own
    assert {after[sequence][0] for sequence in after.keys() - own.keys()} <= {MARKER_SUBJECT}
    again = await start(service(), str(settings.database_url))
    await until(lambda: is_ready(again))
    report = await replay(service(), again.running.settings, again.running.database)
    assert report.equal, report.faults
    await sign_up(again, "later")
    await until(lambda: drained(again))
    assert len(await messages(nats)) == len(after) + 1


async def test_a_damaged_message_is_named_and_the_stream_is_not_continued(served, sign_up, nats) -> None:
    await sign_up(served, "acme")
    await until(lambda: drained(served))
    last = max(await messages(nats))
    await served.running.__aexit__()
    await asyncio.to_thread(damage, nats, (await messages(nats))[last - 1][2])

    async with access(served, nats) as (sources, _, operator):
        found = await survey(sources, operator)

    assert found.disagreements == [f"the stream cannot read sequence {last - 1}; tenant's outbox has it"]


def damage(nats, payload: bytes) -> None:
    """Flips one bit of a stored payload."""
    nats.stop()
    for path in (nats.data_dir / "nats").rglob("*.blk"):
        data = path.read_bytes()
        if (place := data.find(payload)) >= 0:
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    nats.start()


async def test_a_sequence_of_two_outboxes_is_refused(served, sign_up, nats) -> None:
    """A service that had published nothing continues on an emptied log, with sequences that others have, too."""
    await sign_up(served, "acme")
    await until(lambda: drained(served))

    async with access(served, nats) as (sources, _, operator):
        with pytest.raises(ConfigurationError, match="the outboxes of tenant and billing both have sequence"):
            await survey([*sources, replace(sources[0], service="billing")], operator)


async def test_a_start_creates_no_empty_log_in_place_of_a_lost_one(served, nats) -> None:
    await asyncio.to_thread(lose_stream, nats)
    async with access(served, nats) as (_, steward, _):
        with pytest.raises(StreamLostError):
            await ensure(steward)
