"""One failed fsync: the server stops acknowledging, the service reports it, and every acknowledgement was true."""

import asyncio
import shutil
import subprocess
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from paybill_embedded import PostgresServer
from paybill_runtime.testing import Databases, until
from paybill_tenant.app import service

CUSTOMERS = 40

pytestmark = pytest.mark.own_nats


@pytest.fixture
def postgres(tmp_path):
    """Starts a PostgreSQL for this test, since its disk fails."""
    with PostgresServer(tmp_path / "postgres-data") as server:
        yield server.ensure_databases()


@pytest.fixture
def databases(postgres):
    return Databases(postgres)


@pytest.fixture
async def served(start, publish, log, offerings):
    running = await start(service(), lease_s=1)
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    return running


@contextmanager
def one_failed_sync(pid: int):
    """Makes the next fsync or fdatasync of this server fail with EIO, once; sets the event when it has failed."""
    if shutil.which("strace") is None:
        pytest.skip("NO FAILING DISK HERE: strace is not installed")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    attach = [word for each in (pid, *children) for word in ("--attach", str(each))]
    syncs = ("--trace=fsync,fdatasync", "--inject=fsync,fdatasync:error=EIO:when=1")
    tracer = subprocess.Popen(["strace", "--follow-forks", *attach, *syncs], stderr=subprocess.PIPE, text=True)
    failed = threading.Event()

    def read_trace() -> None:
        for line in tracer.stderr:
            if "INJECTED" in line:
                tracer.terminate()  # it detaches; more failures would prove less
                failed.set()

    try:
        line = tracer.stderr.readline()
        if "attached" not in line:
            pytest.skip(f"NO FAILING DISK HERE: {line.strip()}")
        tracing = threading.Thread(target=read_trace)
        tracing.start()
        yield failed
        tracing.join(timeout=10)
    finally:
        tracer.terminate()
        tracer.wait()
        tracer.stderr.close()


async def sign_up(served, number: int) -> str:
    """Requests a sign-up until it is accepted and returns its id; the idempotency key makes repeats safe."""
    slug = f"tenant-{number}"
    body = {"slug": slug, "name": slug, "plan": "pro", "region": "eu-1", "contact_email": f"{slug}@x.example"}

    async def accepted() -> str:
        response = await served.client.post("/v1/tenants", json=body, headers={"Idempotency-Key": f"sign-up-{slug}"})
        assert response.status_code in {202, 503}, response.text
        return response.json().get("id", "")

    return await until(accepted, timeout_s=30)


async def outbox(served, databases) -> dict[str, int | None]:
    """Returns the sequences of all facts but the one about the signing key, which the log of tests leaves out."""
    url = str(served.running.settings.database_url)
    query = (
        "SELECT event_id, sequence FROM chassis.outbox JOIN chassis.publication USING (position) "
        "WHERE aggregate NOT LIKE 'signing-key/%'"
    )
    rows = await databases.execute(url, "tenant", query)
    return {str(row["event_id"]): row["sequence"] for row in rows}


async def ready(served) -> bool:
    return (await served.client.get("/readyz")).json()["status"] == "ok"


async def test_a_bus_with_a_failed_disk_confirms_nothing_more_and_readiness_reports_it(
    served, nats, databases, publish, log, registered, caplog
) -> None:
    ids = [await sign_up(served, 0)]
    await log.facts("tenant.tenant_requested")
    with one_failed_sync(nats.pid) as failed, pytest.raises(TimeoutError):
        await publish(registered(ids[0]))
    assert failed.is_set()

    ids += await asyncio.gather(*(sign_up(served, number) for number in range(1, CUSTOMERS)))

    async def unready() -> str:
        response = await served.client.get("/readyz")
        return response.json()["checks"]["relay"] if response.status_code == 503 else ""

    assert "NATS does not accept facts" in await until(unready, timeout_s=30)
    assert "NATS does not accept facts" in caplog.text
    before = await outbox(served, databases)
    confirmed = {id_: at for id_, at in before.items() if at is not None}
    assert len(before) - len(confirmed) >= CUSTOMERS - 1

    await asyncio.to_thread(nats.restart)

    facts = {fact.id: fact.sequence for fact in await log.facts()}
    assert confirmed.items() <= facts.items()
    requested = await log.facts("tenant.tenant_requested", at_least=CUSTOMERS, timeout_s=30)
    assert Counter(fact.event.tenant_id for fact in requested) == Counter(ids)
    await until(lambda: ready(served), timeout_s=30)


async def test_postgresql_with_a_failed_disk_restarts_with_every_acknowledged_commit(
    served, postgres, databases, log
) -> None:
    """It cannot know which part of the log is on disk, so it panics, and recovers from that part."""
    ids: list[str] = []

    async def sign_many_up(failed: threading.Event) -> None:
        while not failed.is_set() or len(ids) < CUSTOMERS:
            ids.append(await sign_up(served, len(ids)))

    with one_failed_sync(postgres.pid) as failed:
        await sign_many_up(failed)

    assert "PANIC" in postgres.log.read_text()
    await until(lambda: ready(served), timeout_s=30)
    requested = await log.facts("tenant.tenant_requested", at_least=len(ids), timeout_s=30)
    assert Counter(fact.event.tenant_id for fact in requested) == Counter(ids)
    assert await outbox(served, databases) == {
        fact.id: fact.sequence for fact in await log.facts() if fact.event.OWNER == "tenant"
    }
