"""Portable kinds of resources: their typed attributes, what a change of each means, and their outputs.

A kind means the same on every cloud. A driver translates its attributes; a blueprint sets those that do not follow
from tenant, region and placement.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, StringConstraints

from paybill_contracts.event import Value
from paybill_contracts.values import Count, Key

Address = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,120}$"), Field(examples=["schema.main"])]
"""A resource's name inside its environment: `<kind>.<name>`."""

Name = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,199}$"), Field(examples=["pool_eu_central"])
]
"""A resource's name at its provider. A driver refuses one that is longer than its provider accepts."""

Cidr = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$"), Field(examples=["10.0.0.0/16"])
]
Line = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f]*$")]
"""Text without control characters. It may contain references such as `${compute.app.address}` until it is applied."""


class Change(StrEnum):
    """Meaning of a changed attribute for the existing resource. rebuild: it stays, and its content is written anew."""

    IN_PLACE = "in_place"
    REBUILD = "rebuild"
    REPLACE = "replace"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Meaning:
    """Meaning of an attribute.

    needs: it is the address of a resource that must exist before. secret: that resource is a secret, and drivers get a
    reference to it. derived: it follows from tenant, region and placement, so that a blueprint must not set it.
    """

    change: Change
    needs: bool = False
    secret: bool = False
    derived: bool = False


IN_PLACE = Meaning(Change.IN_PLACE)
REPLACE = Meaning(Change.REPLACE)
REFUSE = Meaning(Change.REFUSE)
IDENTITY = Meaning(Change.REPLACE, derived=True)
"""Another name is another resource."""
NEEDED = Meaning(Change.REPLACE, needs=True)
SECRET = Meaning(Change.IN_PLACE, needs=True, secret=True)


class ResourceSize(StrEnum):
    """Portable size of a machine; a driver maps it to its provider's types."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class Column(Value):
    """A column of a tenant's table. `type` is one of the blueprint's allowed PostgreSQL types.

    required: it is never NULL; a key is never NULL either way. Absent while it is not set, so that the hashes of
    earlier blueprints and plans stay.
    """

    name: Key
    type: Key
    required: Annotated[bool, Field(exclude_if=lambda required: not required)] = False


class Table(Value):
    """A table of the product: in every placement a tenant has its own rows of it. The first column is the key."""

    name: Key
    columns: tuple[Column, ...]


class KindAttributes(Value):
    """Base of the attributes of a kind. OUTPUTS: names of the values that a driver returns for a built resource."""

    OUTPUTS: ClassVar[tuple[str, ...]]

    kind: str


class Network(KindAttributes):
    """A private network."""

    OUTPUTS: ClassVar = ("network_id",)

    kind: Literal["network"] = "network"
    name: Annotated[Name, IDENTITY]
    cidr: Annotated[Cidr, REPLACE]


class Compute(KindAttributes):
    """Equal machines or containers that run an image."""

    OUTPUTS: ClassVar = ("address",)

    kind: Literal["compute"] = "compute"
    name: Annotated[Name, IDENTITY]
    image: Annotated[Line, Field(examples=["app:1"]), IN_PLACE]
    size: Annotated[ResourceSize, IN_PLACE] = ResourceSize.SMALL
    count: Annotated[Count, IN_PLACE] = 1
    in_network: Annotated[Address | None, NEEDED] = None
    identity: Annotated[Address | None, Meaning(Change.IN_PLACE, needs=True)] = None


class Database(KindAttributes):
    """A database of a PostgreSQL server. version: the server's major version; None for the driver's."""

    OUTPUTS: ClassVar = ("host", "port", "database")

    kind: Literal["database"] = "database"
    name: Annotated[Name, IDENTITY]
    version: Annotated[Count | None, REFUSE] = None
    size: Annotated[ResourceSize | None, IN_PLACE] = None
    storage_gib: Annotated[Count | None, IN_PLACE] = None
    in_network: Annotated[Address | None, NEEDED] = None


class Schema(KindAttributes):
    """A schema with the product's tables. database: the name of its database; cell: number of the shared stack.

    tenant_column: every table and key begins with the tenant's id.

    Tables and columns can be added in place; their removal and a change of a type or a key are refused.
    """

    OUTPUTS: ClassVar = ("schema_name",)

    kind: Literal["schema"] = "schema"
    name: Annotated[Name, IDENTITY]
    in_database: Annotated[Address, NEEDED]
    database: Annotated[Name, IDENTITY]
    tables: Annotated[tuple[Table, ...], IN_PLACE]
    tenant_column: Annotated[bool, Meaning(Change.REBUILD, derived=True)] = True
    cell: Annotated[Count | None, Meaning(Change.IN_PLACE, derived=True)] = None


class Role(KindAttributes):
    """A login of the tenant for its rows in a schema. secret: of its password; None for a login without one.

    agents: blueprint whose bundle in force decides the rights of a login for agents; None for the tenant's own login.
    """

    OUTPUTS: ClassVar = ("username",)

    kind: Literal["role"] = "role"
    name: Annotated[Name, IDENTITY]
    in_schema: Annotated[Address, Meaning(Change.IN_PLACE, needs=True)]
    secret: Annotated[Address | None, SECRET] = None
    connection_limit: Annotated[int, Field(ge=1, le=10_000), IN_PLACE]
    agents: Annotated[
        Key | None, Field(exclude_if=lambda agents: agents is None), Meaning(Change.IN_PLACE, derived=True)
    ] = None


class Bucket(KindAttributes):
    """A container for the tenant's files. versioned: earlier versions of a file are kept."""

    OUTPUTS: ClassVar = ("bucket",)

    kind: Literal["bucket"] = "bucket"
    name: Annotated[Name, IDENTITY]
    versioned: Annotated[bool, IN_PLACE] = False


class Identity(KindAttributes):
    """A principal at the cloud that acts for the tenant's workload."""

    OUTPUTS: ClassVar = ("principal",)

    kind: Literal["identity"] = "identity"
    name: Annotated[Name, IDENTITY]


class Secret(KindAttributes):
    """A secret in the secrets port. Its value is made by the driver and is in no fact.

    on_demand: it is made when the tenant's credentials are first requested, and not when the resource is created.
    """

    OUTPUTS: ClassVar = ("secret",)

    kind: Literal["secret"] = "secret"
    name: Annotated[Name, IDENTITY]
    on_demand: Annotated[bool, Meaning(Change.IN_PLACE, derived=True)] = False


class Dns(KindAttributes):
    """A name in a DNS zone that points to `target`."""

    OUTPUTS: ClassVar = ("fqdn",)

    kind: Literal["dns"] = "dns"
    name: Annotated[Name, IDENTITY]
    zone: Annotated[Line, Field(examples=["example.com"]), REPLACE]
    target: Annotated[Line, Field(examples=["${compute.app.address}"]), IN_PLACE]


Attributes: TypeAlias = Annotated[
    Network | Compute | Database | Schema | Role | Bucket | Identity | Secret | Dns, Field(discriminator="kind")
]
"""Attributes of a resource, by its kind."""

KINDS: dict[str, type[KindAttributes]] = {
    kind.model_fields["kind"].default: kind
    for kind in (Network, Compute, Database, Schema, Role, Bucket, Identity, Secret, Dns)
}
"""Classes of attributes by the name of their kind."""

LAYERS = {
    "network": "network",
    "dns": "network",
    "compute": "compute",
    "database": "data",
    "schema": "data",
    "role": "identity",
    "identity": "identity",
    "secret": "secrets",
    "bucket": "storage",
}
"""Layer of the placement that each kind belongs to."""


@cache
def meanings(kind: type[KindAttributes]) -> tuple[tuple[str, Meaning], ...]:
    """Returns each attribute of a kind with its meaning."""
    return tuple(
        (name, each)
        for name, field in kind.model_fields.items()
        for each in field.metadata
        if isinstance(each, Meaning)
    )


def needs_of(attributes: KindAttributes) -> tuple[str, ...]:
    """Returns the addresses that the attributes name, in the order of the attributes."""
    named = [getattr(attributes, name) for name, meaning in meanings(type(attributes)) if meaning.needs]
    return tuple(dict.fromkeys(address for address in named if address is not None))
