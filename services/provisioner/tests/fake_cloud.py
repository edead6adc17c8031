"""Provider in memory, and a driver for it, whose calls can fail in every way that a cloud's can.

Databases, buckets and secrets have no unique names there: a create that is repeated makes a second one.
"""

# ruff: noqa: ARG002  # the port has these parameters

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256

from paybill_contracts.agent_bundles import TableRights
from paybill_contracts.cells import Breach
from paybill_contracts.environment_plans import Resource
from paybill_contracts.kinds import Bucket, Database, Role, Schema
from paybill_contracts.placement import Isolation
from paybill_contracts.provisioner import Access, Export
from paybill_provisioner.domain.agent_rights import RightsByBlueprint
from paybill_provisioner.domain.drift import Observed
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.steps import is_shared
from paybill_provisioner.drivers import Done, Outputs, Pending, Result, Scope, Site
from paybill_runtime.jobs.effects import Refused
from paybill_runtime.jobs.kinds import RetryAfter

SETTLED_AFTER_S = 0.2
FINDS = 2
"""Searches that do not show a hidden thing yet."""


class Fault(StrEnum):
    """Fault of one call.

    error, throttled, refused: before any effect. lost: the answer is, after the effect. late: the call has no answer,
    and takes effect later, which `find` does not show before. hidden: `find` shows the new thing at the third call.
    pending: the provider works on it. partial: a list without one of its things.
    """

    NONE = "none"
    ERROR = "error"
    THROTTLED = "throttled"
    REFUSED = "refused"
    LOST = "lost"
    LATE = "late"
    HIDDEN = "hidden"
    PENDING = "pending"
    PARTIAL = "partial"


@dataclass
class Thing:
    """Something that exists at the provider. finds: searches that do not show it yet, unless `visible_at` is over."""

    number: int
    resource: Resource
    tenant: str | None
    finds: int = 0
    visible_at: float = 0.0
    polls: int = 0
    open: bool = False


@dataclass
class Late:
    """A call that takes effect later. at: by the monotonic clock; after: an update's resource, None for a deletion."""

    at: float
    thing: Thing
    method: str
    after: Resource | None = None


@dataclass
class Call:
    """A call of the driver. kind, name: of the resource; empty for calls about an environment."""

    method: str
    tenant: str
    kind: str = ""
    name: str = ""


@dataclass
class Cloud:
    """State of the provider: it outlives the processes that call it.

    built: creations by kind and name, ever; polls: checks of an operation until it ends, with poll_s between them.
    """

    faults: Callable[[Call], Fault] = lambda _: Fault.NONE
    things: list[Thing] = field(default_factory=list)
    built: Counter[tuple[str, str]] = field(default_factory=Counter)
    polls: int = 3
    poll_s: float = 0.02
    _late: list[Late] = field(default_factory=list)
    _lists: int = 0
    _numbers: int = 0

    def new(self, resource: Resource, tenant: str) -> Thing:
        """Returns a thing that does not exist yet."""
        self._numbers += 1
        return Thing(self._numbers, resource, None if is_shared(resource) else tenant)

    def add(self, thing: Thing) -> None:
        """Creates the thing."""
        self.things.append(thing)
        self.built[thing.resource.kind, thing.resource.identity] += 1

    def add_later(self, late: Late) -> None:
        """Lets a call take effect later."""
        self._late.append(late)

    @property
    def is_working(self) -> bool:
        """True while a call takes effect later."""
        return bool(self._late)

    def settle(self) -> None:
        """Applies the calls whose time has come."""
        now = time.monotonic()
        self._apply([each for each in self._late if each.at <= now])

    def finish(self, thing: Thing) -> None:
        """Applies the calls about an existing thing that are under way: they take effect in the order of the calls."""
        self._apply([each for each in self._late if each.thing is thing])

    def _apply(self, calls: Sequence[Late]) -> None:
        """Applies the calls. A unique name is claimed by the first create."""
        for each in calls:
            self._late.remove(each)
            thing = each.thing
            if each.method == "create":
                if thing.resource.kind not in CloudDriver.unique_names or not self.named(thing.resource, thing.tenant):
                    self.add(thing)
            elif thing in self.things and each.after is not None:
                thing.resource = each.after
            elif thing in self.things:
                self.things.remove(thing)

    def cancel(self, resource: Resource, tenant: str) -> None:
        """Ends the creates of a unique name that are under way: its deletion claims it."""
        if resource.kind in CloudDriver.unique_names:
            self._late = [
                each for each in self._late if each.method != "create" or not _is(each.thing, resource, tenant)
            ]

    def without_one(self, things: list[Thing]) -> list[Thing]:
        """Returns a partial list, each time without another one."""
        self._lists += 1
        without = self._lists % max(len(things), 1)
        return [each for number, each in enumerate(things) if number != without]

    def named(self, resource: Resource, tenant: str | None) -> list[Thing]:
        """Returns the things with the kind and name of a tenant's resource."""
        return [each for each in self.things if _is(each, resource, tenant)]

    def of(self, tenant: str) -> Counter[tuple[str, str]]:
        """Returns what exists with the tag of a tenant, by kind and name."""
        self.settle()
        return Counter((each.resource.kind, each.resource.identity) for each in self.things if each.tenant == tenant)


class CloudDriver:
    """Driver of the cloud, as that of one process."""

    unique_names = frozenset({"schema", "role"})
    settled_after_s = SETTLED_AFTER_S

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    async def find(self, resource: Resource, site: Site) -> Result | None:
        await self._begin("find", site, resource)
        return await self._found(resource, site.environment.tenant_id)

    async def _found(self, resource: Resource, tenant: str) -> Result | None:
        named = self.cloud.named(resource, tenant)
        found = [each for each in named if not _is_hidden(each)]
        for each in named:
            each.finds = max(each.finds - 1, 0)
        await asyncio.sleep(0)
        if not found:
            return None
        thing = found[0]
        return Pending(str(thing.number), self.cloud.poll_s) if thing.polls else Done(_outputs(thing))

    async def create(self, resource: Resource, site: Site, token: str) -> Result:
        began = time.monotonic()
        fault = await self._begin("create", site, resource)
        known = self._named_uniquely(resource, site)
        for each in known:
            self.cloud.finish(each)
        known = self._named_uniquely(resource, site)
        thing = known[0] if known else self.cloud.new(resource, site.environment.tenant_id)
        if fault is Fault.LATE and not known:
            self.cloud.add_later(Late(began + SETTLED_AFTER_S / 2, thing, "create"))
            raise TimeoutError("no answer; the provider still works on it")
        if known and not is_shared(resource):
            thing.resource = resource
        if not known:
            thing.finds = FINDS if fault is Fault.HIDDEN else 0
            thing.visible_at = began + SETTLED_AFTER_S * 0.9 if thing.finds else 0.0
            thing.polls = self.cloud.polls if fault is Fault.PENDING else 0
            self.cloud.add(thing)
        return await self._answer(thing, fault)

    def _named_uniquely(self, resource: Resource, site: Site) -> list[Thing]:
        is_unique = is_shared(resource) or resource.kind in self.unique_names
        return self.cloud.named(resource, site.environment.tenant_id) if is_unique else []

    async def update(self, before: Resource, after: Resource, site: Site) -> Result:
        began = time.monotonic()
        fault = await self._begin("update", site, after)
        for each in self.cloud.named(after, site.environment.tenant_id):
            self.cloud.finish(each)
        found = self.cloud.named(after, site.environment.tenant_id)
        if not found:
            raise Refused(f"there is no {after.kind} {after.identity}")
        if fault is Fault.LATE:
            self.cloud.add_later(Late(began + SETTLED_AFTER_S / 2, found[0], "update", after))
            raise TimeoutError("no answer; the provider still works on it")
        found[0].resource = after
        found[0].polls = self.cloud.polls if fault is Fault.PENDING else 0
        return await self._answer(found[0], fault)

    async def delete(self, resource: Resource, site: Site) -> Result:
        began = time.monotonic()
        fault = await self._begin("delete", site, resource)
        named = self.cloud.named(resource, site.environment.tenant_id)
        # A unique name is deleted by its name, without a search that may be behind.
        found = named if resource.kind in self.unique_names else [each for each in named if not _is_hidden(each)]
        if any(each.polls for each in found):
            for each in found:
                each.polls = max(each.polls - 1, 0)
            raise RetryAfter(self.cloud.poll_s, "it is being created")
        if needs := [each for each in self.cloud.things if each.tenant and _needs(each, resource, site)]:
            raise Refused(f"{resource.identity} is needed by {needs[0].resource.identity}")
        self.cloud.cancel(resource, site.environment.tenant_id)
        for each in found:
            if fault is Fault.LATE:
                self.cloud.add_later(Late(began + SETTLED_AFTER_S / 2, each, "delete"))
            else:
                self.cloud.things.remove(each)
        if fault is Fault.LATE:
            raise TimeoutError("no answer; the provider still works on it")
        await asyncio.sleep(0)
        if fault is Fault.LOST:
            raise TimeoutError("the answer is lost")
        return Done({})

    async def absence(self, resource: Resource, site: Site) -> str | None:
        await self._begin("absence", site, resource)
        return None if self.cloud.named(resource, site.environment.tenant_id) else "the list has no such thing"

    async def poll(self, reference: str) -> Result:
        await asyncio.sleep(0)
        self.cloud.settle()
        found = [each for each in self.cloud.things if str(each.number) == reference]
        if not found:
            raise Refused(f"there is no operation {reference}")
        found[0].polls = max(found[0].polls - 1, 0)
        return Pending(reference, self.cloud.poll_s) if found[0].polls else Done(_outputs(found[0]))

    async def observe(self, scope: Scope) -> AsyncIterator[Sequence[Observed]]:
        self.cloud.settle()
        fault = self.cloud.faults(Call("observe", f"ten_{scope.after}"))
        _fail(fault)
        things = [each for each in self.cloud.things if each.tenant is None or scope.includes(each.tenant)]
        if fault is Fault.PARTIAL:
            things = self.cloud.without_one(things)
        for each in things:
            await asyncio.sleep(0)
            yield [_observed(each)]

    async def check(self) -> str | None:
        return None

    async def set_access(self, environment: Environment, access: Access) -> None:
        fault = self.cloud.faults(Call("set_access", environment.tenant_id))
        _fail(fault)
        await asyncio.sleep(0)
        for each in self.cloud.things:
            if each.tenant == environment.tenant_id and each.resource.kind == "role":
                each.open = access is not Access.CLOSED
        if fault is Fault.LOST:
            raise TimeoutError("the answer is lost")

    async def breaches(self, isolation: Isolation, database: str, rights: RightsByBlueprint) -> Sequence[Breach]:
        return ()

    async def grant_agent_rights(self, environment: Environment, rights: Sequence[TableRights]) -> None:
        """Does nothing: this cloud has no database server."""

    async def make_credentials(self, environment: Environment, secrets: Collection[str]) -> Mapping[str, str]:
        return {}

    async def export(self, environment: Environment) -> Export:
        return Export(location=f"exports/{environment.id}", sha256=sha256(b"").hexdigest(), size_bytes=0, rows=0)

    async def delete_export(self, export: Export) -> str:
        return "no file has its name"

    async def close(self) -> None:
        """Closes nothing: it has no connections."""

    async def _begin(self, method: str, site: Site, resource: Resource) -> Fault:
        await asyncio.sleep(0)
        self.cloud.settle()
        fault = self.cloud.faults(Call(method, site.environment.tenant_id, resource.kind, resource.identity))
        _fail(fault)
        return fault

    async def _answer(self, thing: Thing, fault: Fault) -> Result:
        await asyncio.sleep(0)
        if fault is Fault.LOST or (fault is Fault.HIDDEN and thing.finds):
            raise TimeoutError("the answer is lost")
        return Pending(str(thing.number), self.cloud.poll_s) if thing.polls else Done(_outputs(thing))


def _fail(fault: Fault) -> None:
    match fault:
        case Fault.ERROR:
            raise ConnectionResetError("the connection was reset")
        case Fault.THROTTLED:
            raise RetryAfter(0.02, "the provider throttles")
        case Fault.REFUSED:
            raise Refused("the provider does not accept it")
        case _:
            pass


def _is(thing: Thing, resource: Resource, tenant: str | None) -> bool:
    """Returns whether a thing is a tenant's resource. The rows of a pool's tables are the tenant's."""
    same = (thing.resource.kind, thing.resource.identity) == (resource.kind, resource.identity)
    return same and thing.tenant in {None, tenant}


def _is_hidden(thing: Thing) -> bool:
    return bool(thing.finds) and time.monotonic() < thing.visible_at


def _needs(thing: Thing, resource: Resource, site: Site) -> bool:
    """Returns whether a thing is in a database or schema of the tenant that is deleted."""
    attributes = thing.resource.attributes
    if isinstance(attributes, Schema) and resource.kind == "database":
        return attributes.database == resource.identity
    if isinstance(attributes, Role) and isinstance(resource.attributes, Schema):
        schema = site.resources.get(attributes.in_schema)
        return thing.tenant == site.environment.tenant_id and schema == resource
    return False


def _outputs(thing: Thing) -> Outputs:
    name = thing.resource.attributes.name
    match thing.resource.kind:
        case "database":
            return {"host": "cloud.example", "port": "5432", "database": name}
        case "schema":
            return {"schema_name": name}
        case "role":
            return {"username": name}
        case "bucket":
            return {"bucket": name}
        case _:
            return {"secret": f"secret://provisioner/{name}?v={thing.number}"}


def _observed(thing: Thing) -> Observed:
    attributes: dict[str, str] = {}
    match thing.resource.attributes:
        case Role(connection_limit=limit):
            attributes = {
                "connection_limit": str(limit),
                "privileges": "none",
                "login": "yes" if thing.open else "no",
            }
        case Schema(tables=tables, tenant_column=with_tenant):
            attributes = {f"{table.name}.{each.name}": each.type for table in tables for each in table.columns}
            attributes |= {f"{table.name}.tenant_id": "text" for table in tables} if with_tenant else {}
        case Bucket():
            attributes = {"mode": "0700"}
        case Database() if thing.resource.isolation is Isolation.SILO:
            attributes = {"public": "none"}
        case _:
            pass
    outputs = _outputs(thing) if thing.resource.kind == "database" else {}
    shared = thing.resource.kind == "schema" and thing.resource.isolation is Isolation.POOL
    return Observed(thing.resource.kind, thing.resource.identity, None if shared else thing.tenant, attributes, outputs)
