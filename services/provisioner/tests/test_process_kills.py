"""The process of the provisioner is killed by SIGKILL while it builds, changes and deletes on a real server.

PAYBILL_TEST_PROVISIONER_KILLS is the number of kills (default 3), PAYBILL_TEST_PROVISIONER_KILLS_SEED repeats a run,
whose seed is printed.
"""

import asyncio
import faulthandler
import os
import secrets
import signal
import sys
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any

import pytest
from blueprint_samples import blueprint_text
from driver_suite_harnesses import LocalSuiteHarness
from paybill_contracts.placement import Preset
from paybill_provisioner.app import service
from paybill_provisioner.domain.drift import differences
from paybill_provisioner.domain.environment_state import Status
from paybill_provisioner.drivers import Scope
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until
from schedules import UNATTENDED, Process
from test_purge_service import purge_of

pytestmark = pytest.mark.e2e

KILLS = int(os.environ.get("PAYBILL_TEST_PROVISIONER_KILLS", "3"))
SEED = int(os.environ.get("PAYBILL_TEST_PROVISIONER_KILLS_SEED", "0")) or secrets.randbelow(2**32)
BIGGER = {"bigstarter": "pooled", "bigteam": "bridge", "bigbusiness": "silo"}


@pytest.fixture
def settings(settings, harness):
    """Two tiers for each placement, which differ in the connections of a login."""
    first, *bigger = blueprint_text(harness.region, **BIGGER).split("\n  - tier: big")
    text = "\n  - tier: big".join([first, *(each.replace("_limit: 5", "_limit: 9") for each in bigger)])
    settings["blueprints_file"].write_text(text)
    return settings


@asynccontextmanager
async def killed(settings, log_file):
    """Runs the service as a process of its own, and kills it at the end of the block."""
    names = type(settings).model_fields
    given = {
        f"PAYBILL_{name.upper()}": str(getattr(settings, name)) for name in names if getattr(settings, name) is not None
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "paybill_provisioner",
        env={"PATH": os.environ["PATH"], **given},
        stdout=log_file,
        stderr=log_file,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


def bigger(tenant, preset):
    tier = next(tier for tier, placement in BIGGER.items() if placement == preset)
    return tenant.entitled.model_copy(update={"tier": tier, "entitlements_hash": "cd" * 32})


class Tenants:
    """Tenants that come, change and leave."""

    def __init__(self, about, publish, random: Random) -> None:
        self._about = about
        self._publish = publish
        self._random = random
        self._staying: dict[str, tuple[Any, Preset]] = {}
        self.left: dict[str, Any] = {}

    @property
    def all(self) -> list[str]:
        """The tenants' ids."""
        return [*self._staying, *self.left]

    async def act(self) -> None:
        """Lets one come for each placement, one leave, all others change, and those that left be purged."""
        await self._publish(*(bigger(each, preset) for each, preset in self._staying.values()))
        await self._publish(*(purge_of(each) for each in self.left.values()))
        if self._staying:
            id_ = self._random.choice(list(self._staying))
            self.left[id_], _ = self._staying.pop(id_)
            await self._publish(self.left[id_].leaves)
        for preset in Preset:
            tenant = self._about(preset)
            self._staying[tenant.tenant] = tenant, preset
            await self._publish(tenant.requested, tenant.entitled)


async def test_a_killed_process_leaves_no_orphan_and_builds_nothing_twice(
    start, settings, databases, publish, about, harness, tmp_path
) -> None:
    print(f"PAYBILL_TEST_PROVISIONER_KILLS_SEED={SEED} PAYBILL_TEST_PROVISIONER_KILLS={KILLS}")  # noqa: T201  # the record
    faulthandler.dump_traceback_later(120 + 30 * KILLS, exit=True, file=sys.__stderr__)
    random, url = Random(SEED), await databases.fresh("provisioner")  # a test, repeated by its seed
    process, tenants = Process(start, service(), settings, url), Tenants(about, publish, random)
    await process.begin()
    await process.publish_policy(UNATTENDED)
    await process.crash()

    async def facts() -> int:
        ((number,),) = await databases.execute(url, "provisioner", "SELECT count(*) FROM chassis.outbox")
        return int(number)

    with (tmp_path / "provisioner.log").open("w") as log_file:
        for _ in range(KILLS):
            async with killed(process.served.running.settings, log_file):
                before = await facts()
                await tenants.act()
                await until(partial(_more, facts, before))
                await asyncio.sleep(random.uniform(0, 0.5))
    await process.begin()
    suite, found = LocalSuiteHarness(harness), []
    for tenant, each in tenants.left.items():
        await process.settled(tenant, Status.RETAINED, Status.PURGED)
        await publish(purge_of(each))
    for tenant in tenants.all:
        environment = await process.settled(tenant, Status.PURGED if tenant in tenants.left else Status.READY)
        observed = [each async for page in harness.driver.observe(Scope.of(tenant)) for each in page]
        found += [f"{environment.slug}: {each}" for each in differences(environment, observed)]
        recorded = Counter((each.resource.kind, each.resource.identity) for each in environment.built)
        found += [
            f"{environment.slug} has {each} in no record" for each in await suite.existing(environment) - recorded
        ]
    report = await replay(service(), process.served.running.settings, process.served.running.database)

    assert found == []
    assert report.equal


async def _more(facts, before: int) -> bool:
    return await facts() > before
