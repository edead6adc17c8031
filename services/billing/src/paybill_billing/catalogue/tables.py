"""Rows of the catalogue and of the tiers that environments can be built from."""

from paybill_runtime.decisions.aggregates import Stored

from paybill_billing.catalogue.domain import catalogue, tiers
from paybill_billing.database import Base


class CatalogueRow(Base, table=True):
    """The catalogue: one row."""

    __tablename__ = "catalogues"


class TiersRow(Base, table=True):
    """The buildable tiers: one row."""

    __tablename__ = "tiers"


CATALOGUES = Stored("catalogue", CatalogueRow, catalogue.Catalogue, catalogue.evolve)
TIERS = Stored("tiers", TiersRow, tiers.Tiers, tiers.evolve)
STATES = (CATALOGUES, TIERS)
