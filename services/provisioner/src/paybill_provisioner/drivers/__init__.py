"""Port of the drivers that build environments on a cloud."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from paybill_contracts.environment_plans import Step
from paybill_contracts.provisioner import Access, Export

from paybill_provisioner.domain.building import Done as Done
from paybill_provisioner.domain.environments import Environment


class Driver(Protocol):
    """Builds, closes, opens and exports the environments of one cloud.

    Every call is idempotent and can be interrupted anywhere: it inspects existing resources before it creates any. An
    error is retried; `paybill_runtime.jobs.effects.Refused` means that a retry cannot help. Calls for one environment
    never run concurrently; calls for different environments may.
    """

    def build(self, environment: Environment, steps: Sequence[Step]) -> AsyncGenerator[Sequence[Done], None]:
        """Applies `steps` in order, and yields each one, or several together, once they are durable.

        `environment` has the outputs of built resources. An engine that applies a whole plan yields all at once.
        """

    async def set_access(self, environment: Environment, access: Access) -> None:
        """Returns when `access` is in effect, for open sessions, too."""

    async def export(self, environment: Environment) -> Export:
        """Writes all rows of the tenant to a durable file; the same rows give the same bytes."""


Drivers = Mapping[str, Driver]
"""Drivers by the name of their cloud, as in blueprints."""
