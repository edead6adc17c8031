"""Personal data is encrypted from the first fact on, and only entitled services can decrypt it."""

import asyncio
import logging
from itertools import count

import pytest
from paybill_contracts.personal import Personal, UnsealingError
from paybill_contracts.tenant import TenantRequested
from paybill_runtime.database.leases import RELAY
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.key_bucket import KeyBucket
from paybill_runtime.security.data_keys import DataKeys, KeyConflictError
from paybill_runtime.security.identity import Identity
from paybill_runtime.telemetry import _JsonLines
from paybill_runtime.testing import cancel, until
from sqlalchemy import text

EMAIL = "un.likely@acme.example"
TENANT = "ten_" + "0" * 32


@pytest.mark.own_nats
async def test_an_address_is_stored_nowhere_in_plain_text(
    served, sign_up, log, databases, nats, postgres, tmp_path, caplog
) -> None:
    caplog.set_level(logging.DEBUG)
    await sign_up(served)
    await sign_up(served)  # refused: the slug is taken
    await log.facts("tenant.tenant_requested")
    url = str(served.running.settings.database_url)

    tables = await databases.execute(
        url,
        "tenant",
        "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE tableowner = 'tenant'",
    )
    dump = [
        str(await databases.execute(url, "tenant", f"SELECT t::text FROM {table['name']} AS t")) for table in tables
    ]

    files = [path for path in (nats.data_dir / "nats").rglob("*") if path.is_file()]
    assert len(tables) > 10
    assert any("acme" in part for part in dump), "the dump contains data that is not personal"
    assert not any(EMAIL in part or EMAIL.encode().hex() in part for part in dump)
    assert any(b"acme" in path.read_bytes() for path in files), "the stream contains data that is not personal"
    assert not any(EMAIL.encode() in path.read_bytes() for path in files)
    assert not any(EMAIL in _JsonLines("tenant").format(record) for record in caplog.records)


@pytest.fixture
async def sealed(served, sign_up, log) -> Personal[str]:
    await sign_up(served)
    event = (await log.facts("tenant.tenant_requested"))[0].event
    assert isinstance(event, TenantRequested)
    return event.contact_email


@pytest.fixture
async def keys_of(served, nats):
    """`keys_of(name)` returns the data keys as another service sees them."""
    brokers = []

    async def make(name: str) -> DataKeys:
        broker = Broker(nats.url, name, nats.password(name))
        await broker.run()
        brokers.append(broker)
        identity = Identity.load(served.running.settings.identity_dir, name)
        bucket = KeyBucket(name, identity, served.running.database, broker)
        return DataKeys(name, identity, served.running.database, bucket.fetch)

    yield make
    for broker in brokers:
        await broker.close()


async def test_the_entitled_service_and_the_owner_can_decrypt(served, sealed, keys_of) -> None:
    assert await (await keys_of("billing")).open(sealed) == EMAIL
    assert await served.running.data_keys.open(sealed) == EMAIL


async def test_a_service_that_is_not_entitled_cannot_decrypt(sealed, keys_of) -> None:
    with pytest.raises(UnsealingError, match="may not open"):
        await (await keys_of("provisioner")).open(sealed)


async def test_a_value_copied_to_another_tenant_cannot_be_decrypted(served, sealed, sign_up, log) -> None:
    await sign_up(served, "other")
    other = (await log.facts("tenant.tenant_requested", at_least=2))[1].event
    copied = Personal[str](key=other.contact_email.key, sealed=sealed.sealed)

    with pytest.raises(UnsealingError):
        await served.running.data_keys.open(copied)


async def test_without_the_key_nothing_can_be_decrypted(served, sealed, databases) -> None:
    url = str(served.running.settings.database_url)
    await databases.execute(url, "tenant", "DELETE FROM chassis.data_key")

    with pytest.raises(UnsealingError, match="erased"):
        await served.running.data_keys.open(sealed)


async def test_every_address_can_be_decrypted_after_a_transaction_was_rolled_back_and_retried(
    served, sign_up, log
) -> None:
    await sign_up(served, "taken")

    answers = await asyncio.gather(*(sign_up(served, slug) for slug in ("one", "taken", "two")))

    assert [answer.status_code for answer in answers] == [202, 409, 202]
    facts = await log.facts("tenant.tenant_requested", at_least=3)
    assert [await served.running.data_keys.open(fact.event.contact_email) for fact in facts] == [EMAIL] * 3


async def test_values_sealed_concurrently_for_a_new_tenant_share_one_key(served) -> None:
    keys = served.running.data_keys

    sealed = await asyncio.gather(*(keys.seal(TENANT, str(number)) for number in range(5)))
    async with served.running.database.transaction() as connection:
        for value in sealed:
            await keys.store(connection, value)
    keys.stored(sealed)

    assert [await keys.open(value) for value in sealed] == ["0", "1", "2", "3", "4"]


async def test_a_value_whose_key_lost_a_race_is_refused_and_the_next_one_is_stored(served, keys_of) -> None:
    keys, replica = served.running.data_keys, await keys_of("tenant")
    late = await keys.seal(TENANT, "late")
    first = await replica.seal(TENANT, "first")
    async with served.running.database.transaction() as connection:
        await replica.store(connection, first)

    with pytest.raises(KeyConflictError):
        async with served.running.database.transaction() as connection:
            await keys.store(connection, late)
    again = await keys.seal(TENANT, "again")
    async with served.running.database.transaction() as connection:
        await keys.store(connection, again)

    assert [await keys.open(value) for value in (first, again)] == ["first", "again"]


async def test_the_key_is_in_the_bucket_before_the_fact_is_in_the_stream(served, sealed, databases) -> None:
    url = str(served.running.settings.database_url)

    async def copied() -> bool:
        rows = await databases.execute(url, "tenant", "SELECT copied FROM chassis.data_key")
        return [row["copied"] for row in rows] == [True]

    assert await until(copied)


async def test_all_pending_keys_are_copied_before_facts_are_published(served) -> None:
    running = served.running
    keys = [
        {"tenant": f"ten_{number:032x}", "key": running.identity.encrypt_for(bytes(32), "tenant")}
        for number in range(513)
    ]
    running.leases.held.pop(RELAY)
    async with running.database.transaction() as connection:
        await connection.execute(text("INSERT INTO chassis.data_key (tenant, wrapped) VALUES (:tenant, :key)"), keys)

    await running.key_bucket.publish_new()

    left = await running.context.rows(text("SELECT count(*) FROM chassis.data_key WHERE NOT copied"))
    assert left[0][0] == 0


async def test_keys_created_during_a_copy_do_not_delay_the_facts(served) -> None:
    running = served.running
    running.leases.held.pop(RELAY)
    wrapped = running.identity.encrypt_for(bytes(32), "tenant")
    add = text("INSERT INTO chassis.data_key (tenant, wrapped) VALUES (:tenant, :key)")

    async def add_more() -> None:
        for number in count():
            async with running.database.transaction() as connection:
                tenants = [{"tenant": f"ten_{number:08x}{n:024x}", "key": wrapped} for n in range(16)]
                await connection.execute(add, tenants)

    adding = asyncio.create_task(add_more())
    await asyncio.sleep(0.2)
    async with asyncio.timeout(60):
        await running.key_bucket.publish_new()
    await cancel(adding)
