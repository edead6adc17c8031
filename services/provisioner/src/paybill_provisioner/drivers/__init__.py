"""The port through which environments are built on a cloud; one driver for each cloud, or an engine for many."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from paybill_contracts.provisioner import Access, Export, Step

from paybill_provisioner.domain.environments import Environment

Done = tuple[str, Mapping[str, str]]
"""A step that is done for good: the address of its resource, and the outputs that later steps and readers need.

The outputs of a whole environment together name host, port, database, schema_name, username and secret.
"""


class Driver(Protocol):
    """Builds, closes, opens and exports the environments of one cloud.

    Every call can be interrupted anywhere and made again: it looks at what is there before it makes anything. An error
    is tried again; `paybill_runtime.jobs.effects.Refused` means that trying again cannot help. An environment is never
    handled by two calls at a time, two environments may be.
    """

    def build(self, environment: Environment, steps: Sequence[Step]) -> AsyncGenerator[Sequence[Done], None]:
        """Do `steps` in order, and say so as soon as some of them are durable, alone or several together.

        `environment` knows the outputs of what stands. An engine that applies a plan as a whole says all at once.
        """

    async def set_access(self, environment: Environment, access: Access) -> None:
        """Return when `access` is in force, for sessions that are open already too."""

    async def export(self, environment: Environment) -> Export:
        """Write all rows of the tenant to a durable file; the same rows give the same bytes."""


Drivers = Mapping[str, Driver]
"""The drivers by the name of their cloud, as in blueprints."""
