"""Upgrade of what earlier versions made at the providers, in small parts beside all other work."""

from paybill_runtime.database.leases import RELAY
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.jobs.kinds import ClaimedJob, Kind

from paybill_provisioner.drivers import Drivers

UPGRADE = "upgrade_providers"
"""Kind of the job."""

PAUSE_S = 0.2
EVERY_S = 3600.0
"""Time until another check once nothing was left: an operator may restore what an earlier version made."""


class Upgrades:
    """Brings what earlier versions made to the form of this one."""

    def __init__(self, drivers: Drivers) -> None:
        self._drivers = drivers

    def kind(self) -> Kind:
        """Returns the kind of its job."""
        return Kind(UPGRADE, self._run, RELAY, Priority.BULK, recurring=True)

    async def _run(self, _: ClaimedJob) -> float:
        more = [await driver.upgrade() for driver in self._drivers.values()]
        return PAUSE_S if any(more) else EVERY_S
