"""Tests of what `paybill bench` measures on running processes: short runs, which check the meaning of the figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from paybill_bench.grown_stack import grown_stack
from paybill_bench.growth import costs_ms
from paybill_bench.idle import ProcessorTimes, idle_cost
from paybill_bench.memory import memory_use
from paybill_bench.peers.raw_sql import RawSql
from paybill_bench.pool_reads import reading_tenant
from paybill_bench.process_statistics import process_tree, processor_time_s, program, pss_mb
from paybill_bench.provision import measure_drift, measure_plans, measure_rates, measure_waits
from paybill_bench.provisioner import SLOW_SILOS, running_provisioner
from paybill_bench.running_hops import running_hops
from paybill_bench.servers import BenchServers, started_servers
from paybill_bench.stack import RunningStack
from paybill_bench.tenants import FEW, knowing


def test_the_processor_time_of_a_process_grows_while_it_works() -> None:
    before = processor_time_s(os.getpid())
    while processor_time_s(os.getpid()) < before + 0.02:
        sum(range(100_000))

    assert pss_mb(os.getpid()) > 1


def test_a_process_tree_has_the_children_of_children() -> None:
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        tree = process_tree(child.pid)
        programs = {program(pid) for pid in tree}
        child.communicate(b"\n")

    assert tree[0] == child.pid
    assert len(tree) == 2
    assert len(programs) == 1


def test_processor_times_count_a_process_that_started_later_from_its_start() -> None:
    times = ProcessorTimes()
    times.sample([os.getpid()], first=True)
    assert times.used_s == 0

    later = ProcessorTimes()
    later.sample([], first=True)
    later.sample([os.getpid(), 2**30], first=False)

    assert later.used_s == pytest.approx(processor_time_s(os.getpid()), abs=0.5)


@pytest.mark.e2e
@pytest.mark.parametrize("processes", [1, 2])
async def test_processes_of_the_hop_share_the_facts_of_a_log(postgres, tmp_path: Path, processes: int) -> None:
    async with running_hops(BenchServers(tmp_path, postgres), processes, 100) as hops:
        done = await hops.process(3_000, 100)

    assert done.per_s > 0
    assert done.processor_us > 0
    assert len(done.shares) == processes
    assert sum(done.shares) == pytest.approx(1)


@pytest.mark.e2e
async def test_a_hop_that_knows_many_tenants_handles_facts_of_few(postgres, tmp_path: Path) -> None:
    async with knowing(BenchServers(tmp_path, postgres), 5_000) as hops:
        await hops.process(2_000, FEW)
        connection = await asyncpg.connect(hops.access.database_url, password=hops.access.database_password)
        known = await connection.fetchval("SELECT count(*) FROM hops")
        changed = await connection.fetchval("SELECT count(*) FROM hops WHERE revision > 1")
        handled = await connection.fetchval("SELECT count(*) FROM chassis.inbox WHERE sequence = 0")
        await connection.close()

    assert (known, changed, handled) == (5_000, FEW, 5_000)


@pytest.fixture
def running(real_stack) -> RunningStack:
    return RunningStack(0.0, json.loads((real_stack.data_dir / "stack.json").read_text()), real_stack.key)


async def test_the_cost_of_an_idle_stack_has_a_part_for_each_process(running, real_stack) -> None:
    cost = await idle_cost(running, real_stack.data_dir, 3)

    assert cost.percent.keys() == {
        "tenant",
        "billing",
        "provisioner",
        "agent-gateway",
        "postgres",
        "nats",
        "stripe_fake",
    }
    assert 0 < cost.cpu_percent < 200
    assert cost.commits_per_s > 0


def test_the_memory_of_a_stack_has_a_part_for_each_program(running) -> None:
    use = memory_use(running)

    assert {
        "tenant",
        "billing",
        "provisioner",
        "agent-gateway",
        "stripe-fake",
        "supervisor",
        "nats-server",
        "postgres",
    } <= use.keys()
    assert min(use[name] for name in ("tenant", "billing", "provisioner", "agent-gateway")) > 30


def _ignored(_: str) -> None:
    """Drops the progress of a benchmark."""


@pytest.mark.e2e
async def test_environments_are_built_beside_silos_that_stay_pending() -> None:
    async with running_provisioner(1) as free, running_provisioner(1, SLOW_SILOS) as loaded:
        waits = await measure_waits(free, loaded, 3, 1, 2, _ignored)
        rates = await measure_rates(free, 1, 5, _ignored)
        drift = await measure_drift(free, _ignored)
        async with reading_tenant(free, 4, "us-east", 3) as tenant:
            rows = await tenant.fetch("SELECT tenant_id, id FROM documents ORDER BY id")

    figures = {each.key: each.value for each in (*waits, *rates, *drift)}
    assert min(figures.values()) > 0
    assert figures.keys() >= {"provision.pooled_p50_ms", "provision.mixed_wait_p99_x", "provision.vs_raw_sql"}
    assert [row["id"] for row in rows] == ["d1", "d2", "d3"]
    assert {row["tenant_id"] for row in rows} <= set(free.connections)


async def test_the_sql_alone_makes_logins_that_are_open_and_in_both_groups() -> None:
    with started_servers() as servers:
        async with RawSql.opened(servers) as peer:
            await peer.build_all(3)
            logins = await peer.logins()

    assert len(logins) == 3


async def test_the_repair_of_an_environment_is_planned_in_a_process_of_its_own() -> None:
    figures = {each.key: each.value for each in await measure_plans(_ignored, (100, 1000))}

    assert figures["plan.growth_10k_100k"] < 50


@pytest.mark.e2e
async def test_a_stack_with_copies_of_tenants_onboards_and_suspends_others() -> None:
    async with grown_stack(12, 2) as grown:
        connection = await asyncpg.connect(
            grown.servers.postgres.url("postgres", "provisioner"), password=grown.servers.postgres.password("postgres")
        )
        known = await connection.fetchval("SELECT count(*) FROM environments WHERE status = 'ready'")
        logins = await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname ~ '^t_' AND rolcanlogin")
        onboarding, suspension = await costs_ms(grown, 3)
        closed = await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname ~ '^t_' AND NOT rolcanlogin")
        await connection.close()

    assert (known, logins, closed) == (12, 12, 3)
    assert onboarding > suspension > 0
