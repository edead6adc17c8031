"""One server is restored from a copy that is older than the other: found, said, and healed or stopped."""

import asyncio
import shutil
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from paybill_contracts.billing import AccountRegistered, Catalogue, CataloguePublished, PlanVersion
from paybill_contracts.personal import Personal
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Blueprint, BlueprintPublished
from paybill_embedded import PostgresServer
from paybill_runtime import relay
from paybill_runtime.testing import Databases, until
from paybill_tenant.app import service

HASH = "c" * 64


@pytest.fixture
def postgres(tmp_path):
    """A PostgreSQL that is this test's own, for it is set back."""
    with PostgresServer(tmp_path / "postgres-data") as server:
        yield server.ensure_databases()


@pytest.fixture
def databases(postgres):
    return Databases(postgres)


@asynccontextmanager
async def set_back(server, folder):
    """While the block runs, the server lives on; then it is as it was before the block."""
    home, copy = server.data_dir / folder, server.data_dir / "backup"

    def back_up() -> None:
        server.stop()
        shutil.copytree(home, copy)
        server.start()

    def restore() -> None:
        server.stop()
        shutil.rmtree(home)
        copy.rename(home)
        server.start()

    await asyncio.to_thread(back_up)  # so that whoever runs on sees it go
    yield
    await asyncio.to_thread(restore)


def plans(version: int = 1) -> CataloguePublished:
    plan = PlanVersion(
        plan="pro",
        version=version,
        name="Pro",
        tier="standard",
        placement=Preset.POOLED,
        trial_days=0,
        grace_s=60,
        retention_s=86_400,
        features=(),
        prices=(),
    )
    return CataloguePublished(catalogue="main", content=Catalogue(product="app", plans=(plan,)), content_hash=HASH)


def regions() -> BlueprintPublished:
    content = Blueprint(name="main", regions=("eu-1",), tiers=(), tables=())
    return BlueprintPublished(blueprint="main", content=content, content_hash=HASH)


def registered(tenant_id: str, retention_s: int = 86_400) -> AccountRegistered:
    return AccountRegistered(
        tenant_id=tenant_id,
        plan="pro",
        plan_version=1,
        provider="stripe",
        retention_s=retention_s,
        name="Acme",
        contact_email=Personal[str](key=f"billing/{tenant_id}", sealed="A" * 60),
    )


async def sign_up(served, slug: str) -> str:
    body = {"slug": slug, "name": slug, "plan": "pro", "region": "eu-1", "contact_email": f"{slug}@x.example"}

    async def granted() -> str:
        answer = await served.client.post("/v1/tenants", json=body)
        assert answer.status_code in {202, 503}, answer.text  # 503 while connections to the old server are found broken
        return answer.json().get("id", "")

    return await until(granted)


async def overview(served) -> dict:
    answer = await served.client.get("/v1/operations")
    return answer.json() if answer.is_success else {"outbox_waiting": None}


async def at_rest(served) -> int:
    """How far the service has read, as soon as nothing waits in either direction."""

    async def quiet() -> int:
        seen = await overview(served)
        return seen["read_upto"] if seen["outbox_waiting"] == 0 == seen["lag"]["reader"] else 0

    return await until(quiet)


async def unready(served) -> str:
    """Why the service is not ready, as soon as it is not."""

    async def failed() -> str:
        answer = await served.client.get("/readyz")
        return " ".join(answer.json()["checks"].values()) if answer.status_code == 503 else ""

    return await until(failed)


async def stop(served) -> None:
    await served.running.__aexit__()


@pytest.fixture
async def first(start, say, log):
    """The service as it ran before: it knows what may be asked for, and one customer."""
    served = await start(service(), lease_s=1)
    await say(plans(), regions())
    await log.facts("tenant.offering_noted", at_least=2)
    await sign_up(served, "kept")
    await at_rest(served)
    return served


def url_of(served) -> str:
    return str(served.running.settings.database_url)


async def stored(log) -> list[tuple[int, str]]:
    return [(fact.sequence, fact.id) for fact in await log.facts()]


async def test_a_database_older_than_its_published_facts_stops_the_relay(first, start, postgres, log, caplog) -> None:
    async with set_back(postgres, "postgres"):
        await sign_up(first, "forgotten")
        await at_rest(first)
        await stop(first)
    before = await stored(log)

    again = await start(service(), url_of(first), lease_s=1)
    await sign_up(again, "later")

    assert "the database was restored from an older copy" in await unready(again)
    assert "the database was restored from an older copy" in caplog.text
    await asyncio.sleep(1)
    assert await stored(log) == before


async def test_a_database_older_than_what_it_heard_reads_again_and_says_each_fact_once(
    first, start, postgres, say, log
) -> None:
    """The decisions that are gone had not been published, so nobody knows of them; they are made again."""
    id_ = (await log.facts("tenant.tenant_requested"))[0].event.tenant_id
    await stop(first)
    async with set_back(postgres, "postgres"):
        held_up = await start(service(), url_of(first), lease_s=300)
        await decided_but_not_published(held_up, say, id_)
        await stop(held_up)

    again = await start(service(), url_of(first), lease_s=1)
    await at_rest(again)

    assert (await again.client.get("/readyz")).json()["status"] == "ok"
    noted = await log.facts("tenant.retention_noted")
    assert [fact.revision for fact in noted] == [2]


async def test_a_database_set_back_under_a_running_service_is_told_again_what_it_forgot(
    first, start, postgres, say, log
) -> None:
    """Nothing was heard between the restore and the next fact: the reader must not go on from what it remembers."""
    id_ = (await log.facts("tenant.tenant_requested"))[0].event.tenant_id
    await stop(first)
    running = await start(service(), url_of(first), lease_s=300)
    await at_rest(running)
    async with set_back(postgres, "postgres"):
        await decided_but_not_published(running, say, id_)

    await say(registered(f"ten_{'0' * 32}"))
    await until(lambda: heard_about_nobody(running))
    running.running.leases.held = {}
    await running.running.leases.tick()

    assert [fact.revision for fact in await log.facts("tenant.retention_noted")] == [2]


async def decided_but_not_published(served, say, id_: str) -> None:
    """A fact about the tenant is heard, and the answer waits: the relay's lease is not looked at again for a minute."""
    served.running.leases.held.pop(relay.RELAY)
    await say(registered(id_))

    async def waiting() -> bool:
        return (await overview(served))["outbox_waiting"] == 1

    await until(waiting)


async def heard_about_nobody(served) -> bool:
    """The refusal waits in the outbox, alone or behind what was decided again."""
    return bool((await overview(served))["outbox_waiting"])


async def test_a_stream_older_than_its_own_facts_stops_the_relay(first, start, nats, log, caplog) -> None:
    async with set_back(nats, "nats"):
        await sign_up(first, "gone")
        await at_rest(first)
        await stop(first)
    before = await stored(log)

    again = await start(service(), url_of(first), lease_s=1)
    await sign_up(again, "later")

    assert "the stream was restored from an older copy" in await unready(again)
    assert "the stream was restored from an older copy" in caplog.text
    await asyncio.sleep(1)
    assert await stored(log) == before


async def test_a_stream_older_than_its_own_facts_that_has_grown_since_stops_the_relay(
    first, start, nats, say, log
) -> None:
    """Others have filled the places of the facts that are gone, so its end says nothing."""
    async with set_back(nats, "nats"):
        await sign_up(first, "gone")
        await at_rest(first)
        await stop(first)
    await say(plans(), copies=5)

    again = await start(service(), url_of(first), lease_s=1)

    assert "the stream was restored from an older copy" in await unready(again)


async def test_a_stream_that_ends_before_what_was_heard_is_said(first, start, nats, say, log, caplog) -> None:
    async with set_back(nats, "nats"):
        await say(plans(), copies=5)  # heard, and no news: nothing is said about them
        await at_rest(first)
        await stop(first)

    again = await start(service(), url_of(first), lease_s=1)

    assert "the stream was restored from an older copy" in await unready(again)
    assert "the stream was restored from an older copy" in caplog.text


async def test_a_stream_with_other_facts_where_it_has_been_heard_is_said(first, start, nats, say, log) -> None:
    async with set_back(nats, "nats"):
        await say(plans(), copies=5)
        await at_rest(first)
        await stop(first)
    id_ = (await log.facts("tenant.tenant_requested"))[0].event.tenant_id
    await say(registered(id_), copies=7)

    again = await start(service(), url_of(first), lease_s=1)

    assert "the stream was restored from an older copy" in await unready(again)


async def test_a_stream_set_back_under_a_running_service_is_noticed(first, nats, say, log) -> None:
    async with set_back(nats, "nats"):
        await say(plans(), copies=5)
        await at_rest(first)

    assert "the stream was restored from an older copy" in await unready(first)


async def test_a_pair_restored_from_one_copy_goes_on(first, start, postgres, nats, say, log) -> None:
    """The remedy: both from copies of one moment, or the database from the older one."""
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
