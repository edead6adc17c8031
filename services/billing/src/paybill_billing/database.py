"""Base of this service's rows."""

from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow
from sqlalchemy import MetaData
from sqlalchemy.orm import registry


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """This service's rows, in a MetaData of their own: two services can be loaded in one process."""
