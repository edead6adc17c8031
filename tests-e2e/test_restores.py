"""One server is restored from a copy that is older than the other: found, said, and healed or stopped."""

import asyncio
import shutil
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from paybill_embedded import PostgresServer
from paybill_runtime.decisions.restore_guard import OLDER_DATABASE, OLDER_STREAM
from paybill_runtime.messaging import relay
from paybill_runtime.testing import Databases, until
from paybill_tenant.app import service


@pytest.fixture
def postgres(tmp_path):
    """A PostgreSQL that is this test's own, for it is set back."""
    with PostgresServer(tmp_path / "postgres-data") as server:
        yield server.ensure_databases()


@pytest.fixture
def databases(postgres):
    return Databases(postgres)


def copy_of(server, folder, copy) -> None:
    server.stop()
    shutil.copytree(server.data_dir / folder, copy)
    server.start()


def put_back(server, folder, copy) -> None:
    server.stop()
    shutil.rmtree(server.data_dir / folder)
    copy.rename(server.data_dir / folder)
    server.start()


@asynccontextmanager
async def set_back(server, folder):
    """While the block runs, the server lives on; then it is as it was before the block."""
    copy = server.data_dir / "backup"
    await asyncio.to_thread(copy_of, server, folder, copy)  # so that whoever runs on sees it go
    yield
    await asyncio.to_thread(put_back, server, folder, copy)


async def ask(served, slug: str):
    body = {"slug": slug, "name": slug, "plan": "pro", "region": "eu-1", "contact_email": f"{slug}@x.example"}
    return await served.client.post("/v1/tenants", json=body)


async def sign_up(served, slug: str) -> None:
    async def granted() -> bool:
        answer = await ask(served, slug)
        assert answer.status_code in {202, 503}, answer.text  # 503 while connections to the old server are found broken
        return answer.status_code == 202

    await until(granted)


async def overview(served) -> dict:
    answer = await served.client.get("/v1/operations")
    return answer.json() if answer.is_success else {"outbox_waiting": None}


async def at_rest(served) -> int:
    """How far the service has read, as soon as nothing waits in either direction."""

    async def quiet() -> int:
        seen = await overview(served)
        return seen["read_upto"] if seen["outbox_waiting"] == 0 == seen["lag"]["reader"] else 0

    return await until(quiet)


async def stopped(served, log, why: str) -> None:
    """Return when the service says why it is not ready, and has been seen to decide and publish nothing more."""

    async def said() -> bool:
        answer = await served.client.get("/readyz")
        return answer.status_code == 503 and any(why in check for check in answer.json()["checks"].values())

    await until(said)
    before = await stored(log)
    assert (await ask(served, "too-late")).status_code == 503
    await asyncio.sleep(1)
    assert await stored(log) == before


async def stop(served) -> None:
    await served.running.__aexit__()


@pytest.fixture
async def first(start, publish, log, offerings):
    """The service as it ran before: it knows what may be asked for, and one customer."""
    served = await start(service(), lease_s=1)
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    await sign_up(served, "kept")
    await at_rest(served)
    return served


async def kept(log) -> str:
    """The customer's id."""
    return (await log.facts("tenant.tenant_requested"))[0].event.tenant_id


def url_of(served) -> str:
    return str(served.running.settings.database_url)


async def stored(log) -> list[tuple[int, str]]:
    return [(fact.sequence, fact.id) for fact in await log.facts()]


async def test_a_database_older_than_its_published_facts_stops_the_service(first, start, postgres, log, caplog) -> None:
    async with set_back(postgres, "postgres"):
        await sign_up(first, "forgotten")
        await at_rest(first)
        await stop(first)

    again = await start(service(), url_of(first), lease_s=1)

    await stopped(again, log, OLDER_DATABASE)
    assert OLDER_DATABASE in caplog.text


async def test_a_database_older_than_what_it_heard_reads_again_and_says_each_fact_once(
    first, start, postgres, publish, log, registered
) -> None:
    """The decisions that are gone had not been published, so nobody knows of them; they are made again."""
    id_ = await kept(log)
    await stop(first)
    async with set_back(postgres, "postgres"):
        held_up = await start(service(), url_of(first), lease_s=300)
        await decided_but_not_published(held_up, publish, registered(id_))
        await stop(held_up)

    again = await start(service(), url_of(first), lease_s=1)
    await at_rest(again)

    assert (await again.client.get("/readyz")).json()["status"] == "ok"
    noted = await log.facts("tenant.retention_noted")
    assert [fact.revision for fact in noted] == [2]


async def test_a_database_set_back_under_a_running_service_is_told_again_what_it_forgot(
    first, start, postgres, publish, log, registered
) -> None:
    """Nothing was heard between the restore and the next fact: the reader must not go on from what it remembers."""
    id_ = await kept(log)
    await stop(first)
    running = await start(service(), url_of(first), lease_s=300)
    async with set_back(postgres, "postgres"):
        await decided_but_not_published(running, publish, registered(id_))

    await publish(registered(f"ten_{'0' * 32}"))
    await until(lambda: heard_about_nobody(running))
    running.running.leases.held = {}
    await running.running.leases.tick()

    assert [fact.revision for fact in await log.facts("tenant.retention_noted")] == [2]


async def decided_but_not_published(served, publish, fact) -> None:
    """A fact about the tenant is heard, and the answer waits: the relay's lease is not looked at again for a minute."""
    await at_rest(served)
    served.running.leases.held.pop(relay.RELAY)
    await asyncio.sleep(0.5)  # a round of the relay that is under way ends
    await publish(fact)

    async def waiting() -> bool:
        return (await overview(served))["outbox_waiting"] == 1

    await until(waiting)


async def heard_about_nobody(served) -> bool:
    """The refusal waits in the outbox, alone or behind what was decided again."""
    return bool((await overview(served))["outbox_waiting"])


async def test_a_stream_older_than_its_own_facts_stops_the_service(first, start, nats, log, caplog) -> None:
    async with set_back(nats, "nats"):
        await sign_up(first, "gone")
        await at_rest(first)
        await stop(first)

    again = await start(service(), url_of(first), lease_s=1)

    await stopped(again, log, OLDER_STREAM)
    assert OLDER_STREAM in caplog.text


async def test_a_stream_older_than_its_own_facts_that_has_grown_since_stops_the_service(
    first, start, nats, publish, log, offerings
) -> None:
    """Others have filled the places of the facts that are gone, so its end says nothing."""
    async with set_back(nats, "nats"):
        await sign_up(first, "gone")
        await at_rest(first)
        await stop(first)
    await publish(*offerings, copies=5)

    again = await start(service(), url_of(first), lease_s=1)

    await stopped(again, log, OLDER_STREAM)


async def test_a_stream_that_ends_before_what_was_heard_stops_the_service(
    first, start, nats, publish, log, offerings, caplog
) -> None:
    """It has said nothing that is gone; but the next facts would get places that it has read already."""
    async with set_back(nats, "nats"):
        await publish(*offerings, copies=5)  # no news, so nothing is said about them
        await at_rest(first)
        await stop(first)

    again = await start(service(), url_of(first), lease_s=1)

    await stopped(again, log, OLDER_STREAM)
    assert OLDER_STREAM in caplog.text


async def test_a_stream_with_other_facts_where_it_was_heard_stops_the_service(
    first, start, nats, publish, log, offerings, registered
) -> None:
    async with set_back(nats, "nats"):
        await publish(*offerings, copies=5)
        await at_rest(first)
        await stop(first)
    await publish(registered(await kept(log)), copies=12)

    again = await start(service(), url_of(first), lease_s=1)

    await stopped(again, log, OLDER_STREAM)


async def test_a_stream_set_back_under_a_running_service_stops_it_until_the_right_one_is_back(
    first, nats, publish, log, offerings, tmp_path
) -> None:
    async with set_back(nats, "nats"):
        await publish(*offerings, copies=5)
        await at_rest(first)
        await asyncio.to_thread(copy_of, nats, "nats", tmp_path / "newer")
    await stopped(first, log, OLDER_STREAM)

    await asyncio.to_thread(put_back, nats, "nats", tmp_path / "newer")
    await sign_up(first, "later")
    await at_rest(first)

    assert (await first.client.get("/readyz")).json()["status"] == "ok"


async def test_a_pair_restored_from_one_copy_goes_on(first, start, postgres, nats, log) -> None:
    """The remedy when the newer copy is lost: both from one moment."""
    async with set_back(postgres, "postgres"), set_back(nats, "nats"):
        await sign_up(first, "gone")
        await at_rest(first)
        await stop(first)

    again = await start(service(), url_of(first), lease_s=1)
    await sign_up(again, "later")
    await at_rest(again)

    assert (await again.client.get("/readyz")).json()["status"] == "ok"
    slugs = Counter(fact.event.slug for fact in await log.facts("tenant.tenant_requested"))
    assert slugs == {"kept": 1, "later": 1}
