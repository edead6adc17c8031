"""The lifespan of a service: resources that it owns while it runs."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from fastapi import APIRouter
from paybill_runtime.database.leases import RELAY
from paybill_runtime.jobs.kinds import Kind
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.testing import until
from paybill_tenant.app import service


class _Resource:
    """A connection whose use and end are recorded."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    @asynccontextmanager
    async def lifespan(self, _context):
        self.steps.append("opened")
        try:
            yield
        finally:
            self.steps.append("closed")

    async def loop(self, _job) -> None:
        self.steps.append("used")
        try:
            await asyncio.sleep(60)
        finally:
            self.steps.append("unused")

    def kind(self) -> Kind:
        return Kind("loop", self.loop, RELAY, recurring=True)

    async def used(self) -> bool:
        return "used" in self.steps

    async def refuse(self, _context) -> None:
        raise RuntimeError("the start fails")

    def service(self, **changes):
        router = APIRouter(prefix="/v1/none")
        declared = replace(service(), states=(), on_start=(), subscriptions=Subscriptions(), router=lambda _: router)
        return replace(declared, lifespan=self.lifespan, job_kinds=lambda _: [self.kind()], **changes)


@pytest.fixture
def resource() -> _Resource:
    return _Resource()


async def test_resources_open_before_jobs_start_and_close_after_they_end(start, resource) -> None:
    served = await start(resource.service())
    await until(resource.used)
    await served.running.__aexit__()

    assert resource.steps == ["opened", "used", "unused", "closed"]


async def test_resources_close_when_the_start_fails(start, resource) -> None:
    with pytest.raises(RuntimeError, match="the start fails"):
        await start(resource.service(on_start=(resource.refuse,)))

    assert resource.steps == ["opened", "closed"]


async def test_a_service_declares_leases_of_its_own(start, resource) -> None:
    served = await start(resource.service(singleton_leases=("nightly",)))

    assert "nightly" in served.running.leases.held
