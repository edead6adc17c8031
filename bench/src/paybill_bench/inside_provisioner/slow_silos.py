"""`python -m paybill_bench.inside_provisioner.slow_silos`: the provisioner with databases of silos that never complete.

Each is an operation that the provider works on, and that is checked again and again, as in a cloud. Everything else is
built by the local driver.
"""

from dataclasses import replace
from typing import Any, cast

from paybill_contracts.environment_plans import Resource
from paybill_contracts.placement import Isolation
from paybill_provisioner.app import service
from paybill_provisioner.drivers import Driver, Drivers, Pending, Result, Site
from paybill_provisioner.settings import Settings
from paybill_runtime.app import Service
from paybill_runtime.main import run
from paybill_runtime.security.secrets import Secrets

CHECK_AFTER_S = 5.0
"""Time between two checks of an operation."""


class SlowSilos:
    """The local driver, except for the databases of silos."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def create(self, resource: Resource, site: Site, token: str) -> Result:
        """Begins to create the resource; the database of a silo stays pending."""
        if resource.kind == "database" and resource.isolation is Isolation.SILO:
            return Pending(f"create/{token}", CHECK_AFTER_S)
        return await self._driver.create(resource, site, token)

    async def poll(self, reference: str) -> Result:
        """Returns that the operation is still pending."""
        return Pending(reference, CHECK_AFTER_S)


def slow_service() -> Service:
    """Returns the provisioner with this driver."""
    shipped = service()

    def drivers(settings: Settings, secrets: Secrets) -> Drivers:
        found: Drivers = shipped.effects(settings, secrets)
        return {cloud: cast("Driver", SlowSilos(driver)) for cloud, driver in found.items()}

    return replace(shipped, effects=drivers)


if __name__ == "__main__":
    run(slow_service())
