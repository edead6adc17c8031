"""One server is restored from a backup older than the other: detected, reported, and repaired or stopped."""

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

pytestmark = pytest.mark.own_nats


@pytest.fixture
def postgres(tmp_path):
    """Starts a PostgreSQL for this test, since it is restored."""
    with PostgresServer(tmp_path / "postgres-data") as server:
        yield server.ensure_databases()


@pytest.fixture
def databases(postgres):
    return Databases(postgres)


def take_backup(server, folder, copy) -> None:
    server.stop()
    shutil.copytree(server.data_dir / folder, copy)
    server.start()


def restore(server, folder, copy) -> None:
    server.stop()
    shutil.rmtree(server.data_dir / folder)
    copy.rename(server.data_dir / folder)
    server.start()


@asynccontextmanager
async def restored_afterwards(server, folder):
    """Restores the server at the end of the block to its state at the start."""
    copy = server.data_dir / "backup"
    await asyncio.to_thread(take_backup, server, folder, copy)  # so that running services notice the restart
    yield
    await asyncio.to_thread(restore, server, folder, copy)


async def request_sign_up(served, slug: str):
    body = {"slug": slug, "name": slug, "plan": "pro", "region": "eu-1", "contact_email": f"{slug}@x.example"}
    return await served.client.post("/v1/tenants", json=body)


async def sign_up(served, slug: str) -> None:
    async def accepted() -> bool:
        response = await request_sign_up(served, slug)
        assert response.status_code in {202, 503}, response.text  # 503 while connections to the old server fail
        return response.status_code == 202

    await until(accepted)


async def overview(served) -> dict:
    response = await served.client.get("/v1/operations")
    return response.json() if response.is_success else {"outbox_waiting": None}


async def wait_until_idle(served) -> int:
    """Returns the service's position in the stream, once nothing is pending in either direction."""

    async def idle_position() -> int:
        status = await overview(served)
        return status["read_upto"] if status["outbox_waiting"] == 0 == status["lag"]["reader"] else 0

    return await until(idle_position)


async def wait_until_stopped(served, log, reason: str) -> None:
    """Returns when readiness reports `reason`, after checking that the service decides and publishes nothing more."""

    async def is_unready() -> bool:
        response = await served.client.get("/readyz")
        return response.status_code == 503 and any(reason in check for check in response.json()["checks"].values())

    await until(is_unready)
    before = await stored(log)
    assert (await request_sign_up(served, "too-late")).status_code == 503
    await asyncio.sleep(1)
    assert await stored(log) == before


async def stop(served) -> None:
    await served.running.__aexit__()


@pytest.fixture
async def before_restore(start, publish, log, offerings):
    """Starts the service before the restore: with offerings, and one customer."""
    served = await start(service(), lease_s=1)
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    await sign_up(served, "kept")
    await wait_until_idle(served)
    return served


async def kept_tenant(log) -> str:
    """Returns the customer's id."""
    return (await log.facts("tenant.tenant_requested"))[0].event.tenant_id


def url_of(served) -> str:
    return str(served.running.settings.database_url)


async def stored(log) -> list[tuple[int, str]]:
    return [(fact.sequence, fact.id) for fact in await log.facts()]


async def test_a_database_older_than_its_published_facts_stops_the_service(
    before_restore, start, postgres, log, caplog
) -> None:
    async with restored_afterwards(postgres, "postgres"):
        await sign_up(before_restore, "forgotten")
        await wait_until_idle(before_restore)
        await stop(before_restore)

    again = await start(service(), url_of(before_restore), lease_s=1)

    await wait_until_stopped(again, log, OLDER_DATABASE)
    assert OLDER_DATABASE in caplog.text


async def test_a_database_older_than_its_inbox_reads_again_and_publishes_each_fact_once(
    before_restore, start, postgres, publish, log, registered
) -> None:
    """The lost decisions had not been published, so no consumer has them; they are made again."""
    id_ = await kept_tenant(log)
    await stop(before_restore)
    async with restored_afterwards(postgres, "postgres"):
        blocked = await start(service(), url_of(before_restore), lease_s=300)
        await handle_without_publishing(blocked, publish, registered(id_))
        await stop(blocked)

    again = await start(service(), url_of(before_restore), lease_s=1)
    await wait_until_idle(again)

    assert (await again.client.get("/readyz")).json()["status"] == "ok"
    noted = await log.facts("tenant.retention_noted")
    assert [fact.revision for fact in noted] == [2]


async def test_a_database_restored_under_a_running_service_handles_lost_facts_again(
    before_restore, start, postgres, publish, log, registered
) -> None:
    """No fact arrived after the restore before the next one: the consumer must not use its in-memory position."""
    id_ = await kept_tenant(log)
    await stop(before_restore)
    running = await start(service(), url_of(before_restore), lease_s=300)
    async with restored_afterwards(postgres, "postgres"):
        await handle_without_publishing(running, publish, registered(id_))

    await publish(registered(f"ten_{'0' * 32}"))
    await until(lambda: has_output(running))
    running.running.leases.held = {}
    await running.running.leases.tick()

    assert [fact.revision for fact in await log.facts("tenant.retention_noted")] == [2]


async def handle_without_publishing(served, publish, fact) -> None:
    """Handles a fact about the tenant without publishing the output, since the relay lost its lease."""
    await wait_until_idle(served)
    served.running.leases.held.pop(relay.RELAY)
    await asyncio.sleep(0.5)  # a running round of the relay ends
    await publish(fact)

    async def is_pending() -> bool:
        return (await overview(served))["outbox_waiting"] == 1

    await until(is_pending)


async def has_output(served) -> bool:
    """The output is in the outbox, alone or after the repeated decision."""
    return bool((await overview(served))["outbox_waiting"])


async def test_a_stream_older_than_its_own_facts_stops_the_service(before_restore, start, nats, log, caplog) -> None:
    async with restored_afterwards(nats, "nats"):
        await sign_up(before_restore, "gone")
        await wait_until_idle(before_restore)
        await stop(before_restore)

    again = await start(service(), url_of(before_restore), lease_s=1)

    await wait_until_stopped(again, log, OLDER_STREAM)
    assert OLDER_STREAM in caplog.text


async def test_a_stream_older_than_its_own_facts_that_has_grown_since_stops_the_service(
    before_restore, start, nats, publish, log, offerings
) -> None:
    """New facts have the sequences of the lost ones, so the end of the stream shows nothing."""
    async with restored_afterwards(nats, "nats"):
        await sign_up(before_restore, "gone")
        await wait_until_idle(before_restore)
        await stop(before_restore)
    await publish(*offerings, copies=5)

    again = await start(service(), url_of(before_restore), lease_s=1)

    await wait_until_stopped(again, log, OLDER_STREAM)


async def test_a_stream_that_ends_before_the_consumer_position_stops_the_service(
    before_restore, start, nats, publish, log, offerings, caplog
) -> None:
    """None of its own facts is lost; but new facts would get sequences that it has consumed already."""
    async with restored_afterwards(nats, "nats"):
        await publish(*offerings, copies=5)  # without a change, so no output follows
        await wait_until_idle(before_restore)
        await stop(before_restore)

    again = await start(service(), url_of(before_restore), lease_s=1)

    await wait_until_stopped(again, log, OLDER_STREAM)
    assert OLDER_STREAM in caplog.text


async def test_a_stream_with_other_facts_at_handled_sequences_stops_the_service(
    before_restore, start, nats, publish, log, offerings, registered
) -> None:
    async with restored_afterwards(nats, "nats"):
        await publish(*offerings, copies=5)
        await wait_until_idle(before_restore)
        await stop(before_restore)
    await publish(registered(await kept_tenant(log)), copies=12)

    again = await start(service(), url_of(before_restore), lease_s=1)

    await wait_until_stopped(again, log, OLDER_STREAM)


async def test_a_stream_restored_under_a_running_service_stops_it_until_the_right_one_returns(
    before_restore, nats, publish, log, offerings, tmp_path
) -> None:
    async with restored_afterwards(nats, "nats"):
        await publish(*offerings, copies=5)
        await wait_until_idle(before_restore)
        await asyncio.to_thread(take_backup, nats, "nats", tmp_path / "newer")
    await wait_until_stopped(before_restore, log, OLDER_STREAM)

    await asyncio.to_thread(restore, nats, "nats", tmp_path / "newer")
    await sign_up(before_restore, "later")
    await wait_until_idle(before_restore)

    assert (await before_restore.client.get("/readyz")).json()["status"] == "ok"


async def test_a_database_restored_under_a_running_service_stops_it_until_the_right_one_returns(
    before_restore, postgres, log, tmp_path
) -> None:
    async with restored_afterwards(postgres, "postgres"):
        await sign_up(before_restore, "forgotten")
        await wait_until_idle(before_restore)
        await asyncio.to_thread(take_backup, postgres, "postgres", tmp_path / "newer")
    await wait_until_stopped(before_restore, log, OLDER_DATABASE)

    await asyncio.to_thread(restore, postgres, "postgres", tmp_path / "newer")
    await sign_up(before_restore, "later")
    await wait_until_idle(before_restore)

    assert (await before_restore.client.get("/readyz")).json()["status"] == "ok"


async def test_a_pair_restored_from_one_backup_works(before_restore, start, postgres, nats, log) -> None:
    """The remedy when the newer backup is lost: both servers from one instant."""
    async with restored_afterwards(postgres, "postgres"), restored_afterwards(nats, "nats"):
        await sign_up(before_restore, "gone")
        await wait_until_idle(before_restore)
        await stop(before_restore)

    again = await start(service(), url_of(before_restore), lease_s=1)
    await sign_up(again, "later")
    await wait_until_idle(again)

    assert (await again.client.get("/readyz")).json()["status"] == "ok"
    slugs = Counter(fact.event.slug for fact in await log.facts("tenant.tenant_requested"))
    assert slugs == {"kept": 1, "later": 1}
