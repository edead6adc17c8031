"""The states of this service: tenants and offerings, a JSON document each, with columns to look tenants up by."""

from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored, generated
from sqlalchemy import Index, MetaData
from sqlalchemy.orm import registry

from paybill_tenant.domain import offerings, tenants
from paybill_tenant.domain.offerings import Offering
from paybill_tenant.domain.tenants import Tenant


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """This service's rows, in a MetaData of their own: two services can be loaded in one process."""


class TenantRow(Base, table=True):
    """A tenant. Its slug stays its own after it left."""

    __tablename__ = "tenants"
    __table_args__ = (Index(None, "status", "slug"),)

    slug: str = generated("state->>'slug'", unique=True)
    status: str = generated("state->>'status'")


class OfferingRow(Base, table=True):
    """What may be asked for: the rows `plans`, `regions` and `payments`."""

    __tablename__ = "offerings"


TENANTS = Stored("tenant", TenantRow, Tenant, tenants.evolve, conflicts={"tenants_slug_key": tenants.SlugTakenError})
OFFERINGS = Stored("offering", OfferingRow, Offering, offerings.evolve)
STATES = (TENANTS, OFFERINGS)
