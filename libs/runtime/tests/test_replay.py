"""Replay reports changes that bypassed the log and faults of the log itself."""

import asyncio

import pytest
from paybill_runtime.database.pool import Database
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.messaging.streams import EVENTS, configurations, connect
from paybill_runtime.replay.verify import replay
from paybill_runtime.settings import read_secret
from paybill_runtime.testing import until
from paybill_tenant.app import service
from sqlalchemy import text


@pytest.fixture
async def filled(served, sign_up, log):
    """Service with two tenants, one of which has two facts."""
    for slug in ("acme", "beta"):
        await sign_up(served, slug)
    await served.client.post("/v1/tenants/acme/offboard", json={"reason": "leaves"})
    await log.facts("tenant.tenant_cancelled")
    await until(lambda: _relayed(served))
    return served


async def _relayed(served) -> bool:
    return (await served.client.get("/v1/operations")).json()["outbox_waiting"] == 0


async def _verify(served, **options):
    settings = served.running.settings
    database = Database(settings.database_url, read_secret(settings.database_password_file), "replay")
    try:
        return await replay(service(), settings, database, **options)
    finally:
        await database.close()


def _kinds(report) -> set[str]:
    return {fault.kind for fault in report.faults}


async def test_an_untouched_service_is_equal_to_its_log(filled) -> None:
    report = await _verify(filled)

    assert report.equal
    assert (report.facts, report.aggregates) == (7, 5)


async def test_facts_that_are_not_yet_published_count_too(filled, nats, sign_up) -> None:
    filled.running.loops.tasks["relay"].cancel()
    await sign_up(filled, "late")

    report = await _verify(filled)

    assert report.equal
    assert report.from_outbox == 1


async def test_facts_published_but_not_confirmed_count_once(filled, databases) -> None:
    filled.running.loops.tasks["relay"].cancel()
    url = str(filled.running.settings.database_url)
    await databases.execute(url, "tenant", "UPDATE chassis.publication SET sequence = NULL WHERE position > 3")

    report = await _verify(filled)

    assert report.equal
    assert (report.facts, report.from_outbox) == (7, 4)


async def test_a_fact_that_the_log_holds_twice_counts_once(filled, nats) -> None:
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    jetstream = client.jetstream()
    message = await jetstream.get_msg(EVENTS, (await jetstream.stream_info(EVENTS)).state.last_seq, direct=True)
    # After the duplicate window the server stores a fact again.
    await jetstream.publish(message.subject, message.data, headers=message.headers | {"Nats-Msg-Id": "forgotten"})
    await client.close()

    report = await _verify(filled)

    assert report.equal
    assert (report.facts, report.duplicates) == (7, 1)


async def test_an_unreadable_fact_in_the_outbox_is_reported(filled, databases, sign_up) -> None:
    filled.running.loops.tasks["relay"].cancel()
    await sign_up(filled, "late")
    url = str(filled.running.settings.database_url)
    unpublished = "position IN (SELECT position FROM chassis.publication WHERE sequence IS NULL)"
    await databases.execute(url, "tenant", f"UPDATE chassis.outbox SET payload = '{{}}' WHERE {unpublished}")

    report = await _verify(filled)

    assert _kinds(report) == {"unreadable_fact", "unexpected_row"}


async def test_a_row_of_an_earlier_version_lacks_fields_with_defaults_and_is_equal(filled, databases) -> None:
    url = str(filled.running.settings.database_url)
    await databases.execute(url, "tenant", "UPDATE tenants SET state = state - 'failure' - 'epoch'")

    assert (await _verify(filled)).equal


@pytest.mark.parametrize(
    ("statement", "kind", "named"),
    [
        (
            "UPDATE tenants SET state = jsonb_set(state, '{name}', '\"Acmf\"') WHERE state->>'slug' = 'acme'",
            "different_state",
            "name",
        ),
        ("UPDATE tenants SET revision = 7 WHERE state->>'slug' = 'acme'", "different_state", "revision 7"),
        ("DELETE FROM tenants WHERE slug = 'beta'", "missing_row", "no row"),
        (
            (
                "INSERT INTO tenants SELECT 'ten_' || repeat('0', 32), 1, jsonb_set(state, '{slug}', '\"ghost\"') "
                "FROM (SELECT state FROM tenants LIMIT 1) AS one"
            ),
            "unexpected_row",
            "without facts in the log",
        ),
        ("DELETE FROM chassis.outbox WHERE subject LIKE '%tenant_cancelled%'", "missing_outbox_row", "lacks sequence"),
        (
            "DELETE FROM chassis.outbox WHERE position = (SELECT max(position) FROM chassis.outbox)",
            "missing_outbox_row",
            "that the log has",
        ),
        (
            "DELETE FROM chassis.inbox WHERE sequence = (SELECT min(sequence) FROM chassis.inbox)",
            "wrong_inbox",
            "deleted",
        ),
        ("INSERT INTO chassis.inbox VALUES (gen_random_uuid(), 1000)", "wrong_inbox", "at least 1 added"),
        ("UPDATE chassis.position SET sequence = sequence + 1000", "wrong_position", "the log does not have"),
        ("UPDATE chassis.position SET sequence = sequence - 1 WHERE sequence > 1", "wrong_position", "does not have"),
        (
            (
                "UPDATE chassis.outbox SET "
                "payload = convert_to(replace(convert_from(payload, 'UTF8'), 'acme', 'acmf'), 'UTF8')"
            ),
            "altered_outbox",
            "so the outbox was changed",
        ),
        (
            "UPDATE chassis.outbox SET headers = replace(headers, 'operator:', 'agent:')",
            "altered_outbox",
            "so the outbox was changed",
        ),
        ("UPDATE chassis.outbox SET revision = revision + 7", "altered_outbox", "so the outbox was changed"),
        ("UPDATE tenants SET state = '[]' WHERE state->>'slug' = 'acme'", "different_state", "not an object"),
        (
            "UPDATE tenants SET state = state - 'name' WHERE state->>'slug' = 'acme'",
            "different_state",
            "the field name differs from the log",
        ),
        (
            "UPDATE tenants SET state = state || '{\"more\": 1}' WHERE state->>'slug' = 'acme'",
            "different_state",
            "more",
        ),
    ],
)
async def test_a_change_that_bypassed_the_log_is_reported(filled, databases, statement, kind, named) -> None:
    url = str(filled.running.settings.database_url)
    await databases.execute(url, "tenant", statement)

    report = await _verify(filled)

    assert kind in _kinds(report)
    assert any(named in fault.message for fault in report.faults)


async def test_a_rebuild_keeps_the_right_tables_when_the_newest_outbox_row_is_missing(filled, databases) -> None:
    url = str(filled.running.settings.database_url)
    await filled.running.__aexit__(None, None, None)
    newest = "(SELECT max(position) FROM chassis.outbox)"
    await databases.execute(url, "tenant", f"DELETE FROM chassis.outbox WHERE position = {newest}")

    report = await _verify(filled, rebuild=True)

    assert "missing_outbox_row" in _kinds(report)
    assert not report.rebuilt


async def test_a_fact_that_the_service_never_decided_is_unknown(filled, nats) -> None:
    client = await connect(nats.url, "tenant", nats.password("tenant"))
    jetstream = client.jetstream()
    message = await jetstream.get_msg(EVENTS, (await jetstream.stream_info(EVENTS)).state.last_seq, direct=True)
    id_ = "01890000-0000-7000-8000-000000000000"
    forged = {"Nats-Msg-Id": id_, "ce-id": id_, "pb-revision": "99"}
    await jetstream.publish(message.subject, message.data, headers=message.headers | forged)
    await client.close()

    report = await _verify(filled)

    assert _kinds(report) == {"unknown_fact"}


@pytest.mark.own_nats
async def test_a_fact_missing_from_the_log_is_reported(filled, nats, log) -> None:
    own = next(fact for fact in await log.facts() if fact.event.OWNER == "tenant")
    await _without(nats, {own.sequence})

    report = await _verify(filled)

    assert "lost_fact" in _kinds(report)


@pytest.mark.own_nats
async def test_two_facts_in_the_wrong_order_are_reported(filled, nats, log) -> None:
    facts = [fact for fact in await log.facts() if fact.event.tenant and fact.event.OWNER == "tenant"]
    first, second = sorted((f for f in facts if f.event.tenant == facts[0].event.tenant), key=lambda f: f.revision)[:2]

    await _swapped(nats, first.sequence, second.sequence)

    report = await _verify(filled)
    assert _kinds(report) == {"swapped_facts", "misplaced_fact"}


async def test_rebuilding_repairs_the_tables_once_the_service_is_stopped(filled, databases) -> None:
    url = str(filled.running.settings.database_url)
    await databases.execute(url, "tenant", "UPDATE tenants SET state = jsonb_set(state, '{name}', '\"Acmf\"')")

    with pytest.raises(ConfigurationError, match="still runs"):
        await _verify(filled, rebuild=True)
    await filled.running.__aexit__(None, None, None)
    report = await _verify(filled, rebuild=True)

    assert report.rebuilt
    assert (await _verify(filled)).equal


async def test_a_decision_made_while_a_rebuild_starts_is_not_overwritten(filled, databases) -> None:
    url = str(filled.running.settings.database_url)
    await filled.running.__aexit__(None, None, None)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'replay' AND wait_event_type = 'Lock'"

    other = Database(url, read_secret(filled.running.settings.database_password_file), "other")
    async with other.transaction() as connection:
        await connection.execute(text("SELECT name FROM chassis.lease FOR UPDATE"))
        rebuilding = asyncio.create_task(_verify(filled, rebuild=True))
        await until(lambda: databases.execute(url, "tenant", waiting))
        await connection.execute(
            text(
                "INSERT INTO chassis.outbox (event_id, aggregate, revision, subject, headers, payload, recorded_at) "
                "SELECT gen_random_uuid(), 'tenant/new', 1, subject, headers, payload, now() "
                "FROM chassis.outbox LIMIT 1"
            )
        )
    await other.close()

    with pytest.raises(ConfigurationError, match="after the log was read"):
        await rebuilding


async def _copied(nats):
    """Returns all messages and replaces the stream by an empty one, as an attacker with access to the disk could."""
    client = await connect(nats.url, "operator", nats.password("operator"))
    info = await client.jetstream().stream_info(EVENTS)
    messages = [
        await client.jetstream().get_msg(EVENTS, seq, direct=False) for seq in range(1, info.state.last_seq + 1)
    ]
    await client.close()
    nats.stop()
    for path in sorted((nats.data_dir / "nats" / "jetstream").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    nats.start()
    steward = await connect(nats.url, "steward", nats.password("steward"))
    for configuration in configurations(1):
        await steward.jetstream().add_stream(configuration)
    await steward.close()
    return messages


async def _written(nats, messages) -> None:
    clients = {}
    for message in messages:
        owner = message.subject.split(".")[3]
        if owner not in clients:
            clients[owner] = await connect(nats.url, owner, nats.password(owner))
        await clients[owner].jetstream().publish(message.subject, message.data, headers=message.headers)
    for client in clients.values():
        await client.close()


async def _without(nats, gone: set[int]) -> None:
    messages = await _copied(nats)
    await _written(nats, [message for message in messages if message.seq not in gone])


async def _swapped(nats, first: int, second: int) -> None:
    messages = {message.seq: message for message in await _copied(nats)}
    messages[first], messages[second] = messages[second], messages[first]
    await _written(nats, [messages[seq] for seq in sorted(messages)])
