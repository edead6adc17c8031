"""Tests of what `paybill bench` measures on running processes: short runs, which check the meaning of the figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from paybill_bench.idle import ProcessorTimes, idle_cost
from paybill_bench.memory import memory_use
from paybill_bench.process_statistics import process_tree, processor_time_s, program, pss_mb
from paybill_bench.running_hops import running_hops
from paybill_bench.servers import BenchServers
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

    assert cost.percent.keys() == {"tenant", "billing", "provisioner", "postgres", "nats", "stripe_fake"}
    assert 0 < cost.cpu_percent < 200
    assert cost.commits_per_s > 0


def test_the_memory_of_a_stack_has_a_part_for_each_program(running) -> None:
    use = memory_use(running)

    assert {"tenant", "billing", "provisioner", "stripe-fake", "supervisor", "nats-server", "postgres"} <= use.keys()
    assert min(use[name] for name in ("tenant", "billing", "provisioner")) > 30
