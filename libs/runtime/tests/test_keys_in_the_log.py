"""Signing keys in the log: the first one stands before all facts, and a withdrawn one signs nothing any more."""

import json
from datetime import UTC, datetime
from functools import partial

import pytest
from paybill_contracts.envelope import Origin
from paybill_contracts.signatures import SIGNATURE_HEADER
from paybill_contracts.signing_keys import KnownKeys, Refusal, key_fact_kind
from paybill_contracts.tenant import OfferingNoted
from paybill_runtime.decisions.group_commit import Decision
from paybill_runtime.messaging import relay
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.replay.verify import replay
from paybill_runtime.security.signing_identity import SigningIdentity, certified
from paybill_runtime.testing import until
from paybill_runtime.testing.signing import key
from paybill_tenant.app import service
from paybill_tenant.tables import SIGNUP_OPTIONS

pytestmark = pytest.mark.own_nats

STRIP = (
    "UPDATE chassis.outbox SET headers = (headers::jsonb - 4)::text WHERE aggregate LIKE 'offering/%' "
    "AND position IN (SELECT position FROM chassis.publication WHERE sequence IS NULL)"
)
COLUMNS = "event_id, aggregate, revision, tenant, subject, headers, payload, recorded_at"
KEY_LAST = (
    "WITH key AS (DELETE FROM chassis.outbox WHERE aggregate LIKE 'signing-key/%' RETURNING *), "
    "old AS (DELETE FROM chassis.publication WHERE position IN (SELECT position FROM key)), "
    f"new AS (INSERT INTO chassis.outbox ({COLUMNS}) SELECT {COLUMNS} FROM key RETURNING position) "
    "INSERT INTO chassis.publication (position) SELECT position FROM new"
)


async def record(served, *offerings: str) -> None:
    """Decides a fact about each offering."""
    for offering in offerings:
        event = OfferingNoted(offering=offering, keys=("eu-1",), source_hash="e" * 64)
        decide = partial(_emit, offering, event)
        origin = Origin(offering, offering, "service:tenant", "")
        await served.running.group_commit.decide(Decision(origin, decide, writes=[SIGNUP_OPTIONS.key(offering)]))


def _emit(offering, event, unit, _at) -> None:
    unit.record(SIGNUP_OPTIONS, offering, [event])


async def drained(served) -> bool:
    return (await served.client.get("/v1/operations")).json()["outbox_waiting"] == 0


async def messages(nats):
    client = await connect(nats.url, "operator", nats.password("operator"))
    consumer = OrderedConsumer(client, EVENTS, ["paybill.events.>"], 1)
    found = [message async for page in consumer.existing(5) for message in page]
    await consumer.close()
    await client.close()
    return found


def refusals(found) -> list[Refusal | None]:
    known = KnownKeys(key("root").public_key().public_bytes_raw())
    return [known.verify(each.subject, each.headers, each.data, stream_sequence(each)) for each in found]


async def test_facts_of_a_version_that_did_not_sign_are_signed_and_follow_the_first_key(
    start, nats, databases, monkeypatch
) -> None:
    monkeypatch.setattr(relay, "BATCH", 2)  # the key is far behind the first facts
    nats.kill()
    served = await start(service(), lease_s=300)
    url = str(served.running.settings.database_url)
    await record(served, *"abcde")
    for statement in (STRIP, KEY_LAST):
        await databases.execute(url, "tenant", statement)

    nats.start()
    await until(lambda: drained(served))

    found = await messages(nats)
    assert len(found) >= 6
    assert key_fact_kind(found[0].subject)
    assert refusals(found) == [None] * len(found)
    assert (await replay(service(), served.running.settings, served.running.database)).equal


async def test_an_unsigned_row_is_not_signed_once_the_log_has_a_key(start, nats, databases) -> None:
    served = await start(service(), lease_s=300)
    url = str(served.running.settings.database_url)
    await until(lambda: drained(served))
    nats.kill()
    await record(served, "a")
    await databases.execute(url, "tenant", STRIP)

    nats.start()
    await until(lambda: drained(served))

    *signed, last = refusals(await messages(nats))
    assert (set(signed), last) == ({None}, Refusal.UNSIGNED)


async def test_a_key_is_replaced_and_withdrawn_and_no_fact_of_it_comes_later(start, nats, tmp_path, caplog) -> None:
    first = await start(service(), lease_s=2)
    url = str(first.running.settings.database_url)
    await record(first, "a")
    await until(lambda: drained(first))
    folder = tmp_path / "identities"
    old = SigningIdentity.load(folder, "tenant")
    new = certified("tenant", key("next"), key("root"), number=2, replaces=old.announcement.key_id)
    new = new.withdraw("tenant", old.announcement.key_id, "its disk is lost", key("root"), datetime.now(UTC))
    (folder / "tenant.signing-key").write_bytes(new.file())
    nats.kill()
    await record(first, "b", "c")

    second = await start(service(), url)
    await record(second, "d")
    nats.start()
    await until(partial(_is_set, first.running.loops.failed))
    await first.running.__aexit__()
    await until(lambda: drained(second))

    found = await messages(nats)
    assert refusals(found) == [None] * len(found)
    signers = {each.headers["ce-subject"]: each.headers[SIGNATURE_HEADER].split(".")[1] for each in found}
    assert {signers[f"offering/{name}"] for name in "abc"} == {old.announcement.key_id}
    assert signers["offering/d"] == new.announcement.key_id
    assert json.loads(found[-1].data)["reason"] == "its disk is lost"
    assert f"the signing key {old.announcement.key_id} is withdrawn" in caplog.text
    assert (await replay(service(), second.running.settings, second.running.database)).equal


async def _is_set(event) -> bool:
    return bool(event.is_set())
