"""Port of the drivers that build the resources of environments on a cloud."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

from paybill_contracts.agent_bundles import TableRights
from paybill_contracts.cells import Breach
from paybill_contracts.environment_plans import Resource
from paybill_contracts.placement import Isolation
from paybill_contracts.provisioner import Access, Export
from paybill_contracts.table_rebuilds import InspectedTables

from paybill_provisioner.domain.agent_rights import RightsByBlueprint
from paybill_provisioner.domain.drift import Observed
from paybill_provisioner.domain.environment_state import Environment

Outputs: TypeAlias = Mapping[str, str]
"""Values of an existing resource for other resources and for consumers, never a secret."""


@dataclass(frozen=True, slots=True)
class Done:
    """A call has taken effect and is durable. outputs: empty for a deletion."""

    outputs: Outputs


@dataclass(frozen=True, slots=True)
class Pending:
    """The provider works on it. reference: of the operation, for `poll`; check_after_s: not before that."""

    reference: str
    check_after_s: float


Result: TypeAlias = Done | Pending


@dataclass(frozen=True, slots=True)
class Site:
    """Surroundings of a resource: its environment, the environment's resources, and the outputs of existing ones."""

    environment: Environment
    resources: Mapping[str, Resource]
    outputs: Mapping[str, Outputs]


AFTER_ALL = "g"
"""Behind every hexadecimal number."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Tenants whose resources are observed: those with a number from `after` on and below `before`."""

    after: str
    before: str

    @classmethod
    def of(cls, tenant_id: str) -> Self:
        """Returns the scope of one tenant."""
        number = tenant_id.removeprefix("ten_")
        return cls(number, f"{number}{AFTER_ALL}")

    def includes(self, tenant_id: str) -> bool:
        """Returns whether a tenant is in the scope."""
        return self.after <= tenant_id.removeprefix("ten_") < self.before


class Driver(Protocol):
    """Finds, creates, changes and deletes the resources of one cloud.

    Every call is idempotent and can be interrupted anywhere. Logins are created without access, and a change of them
    leaves their access as it is. `RetryAfter` means that the provider is away, throttles, has no room, or that the
    driver lacks rights: the job waits, without a time given longer after each attempt.
    `paybill_runtime.jobs.effects.Refused` means that a retry cannot help. Calls for resources of one environment that
    do not need each other may run concurrently.
    """

    unique_names: frozenset[str]
    """Kinds whose names are unique at the provider: `create` adopts what exists, and needs no `find` before.

    A create that is still under way when `delete` is done has no effect afterwards, and no deletion that is under way
    when `create` is done.
    """

    settled_after_s: float
    """Longest time from the begin of a create or a deletion, of another kind, until `find` sees its effect.

    It covers the timeout of the driver's call, the delay of the provider, and the time in which it shows new things.
    Positive for a driver with such kinds.
    """

    async def find(self, resource: Resource, site: Site) -> Result | None:
        """Returns the resource with this name and these tags, pending while it is incomplete; None without one."""

    async def create(self, resource: Resource, site: Site, token: str) -> Result:
        """Creates the resource. token: the same at every attempt, for providers with idempotency tokens.

        After an error or an interrupt it may take effect until `settled_after_s` has passed.
        """

    async def update(self, before: Resource, after: Resource, site: Site) -> Result:
        """Changes the attributes that can change in place, or rebuilds the content when one of those changed.

        An earlier change that is still under way takes effect before this one, or never.
        """

    async def inspect_tables(self, schema: Resource) -> InspectedTables:
        """Returns the size of a schema's tables, and what a rebuild would lose because Paybill did not make it."""

    async def delete(self, resource: Resource, site: Site) -> Result:
        """Deletes the resource, and is done when it is absent."""

    async def absence(self, resource: Resource, site: Site) -> str | None:
        """Returns what was read to see that nothing of the resource exists; None while something does."""

    async def poll(self, reference: str) -> Result:
        """Checks a pending operation."""

    def observe(self, scope: Scope) -> AsyncIterator[Sequence[Observed]]:
        """Yields all resources that carry our tags, in pages: those of the tenants in `scope`, and shared ones.

        Each page is a call that counts against the budget of the provider.
        """

    async def upgrade(self) -> bool:
        """Brings some of what earlier versions made to the form of this one; True while there may be more."""

    async def check(self) -> str | None:
        """Returns why the driver cannot work, such as a missing right; None when it can. Raises RetryAfter."""

    async def set_access(self, environment: Environment, access: Access) -> None:
        """Returns when `access` is in effect for every login of the tenant, for open sessions, too."""

    async def breaches(self, isolation: Isolation, database: str, rights: RightsByBlueprint) -> Sequence[Breach]:
        """Returns the guarantees of isolation that do not hold in a database; none without it.

        rights: those that agents' logins may have.
        """

    async def grant_agent_rights(self, environment: Environment, rights: Sequence[TableRights]) -> None:
        """Gives the agents' login exactly these rights, and those of one blueprint in one pool together.

        A table or column that the tenant does not have is left out.
        """

    async def make_credentials(self, environment: Environment, secrets: Collection[str]) -> Mapping[str, str]:
        """Makes the secrets with these addresses, and the logins that use them accept them.

        Returns the references by address; the same at every call.
        """

    async def export(self, environment: Environment) -> Export:
        """Writes all rows of the tenant to a durable file; the same rows give the same bytes."""

    async def delete_export(self, export: Export) -> str:
        """Removes an export, and returns what was read to see its absence. Idempotent."""


Drivers = Mapping[str, Driver]
"""Drivers by the name of their cloud, as in blueprints."""
