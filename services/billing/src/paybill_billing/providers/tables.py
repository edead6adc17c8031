"""Row of the providers that are configured."""

from paybill_runtime.decisions.aggregates import Stored

from paybill_billing.database import Base
from paybill_billing.providers import domain as providers


class ProvidersRow(Base, table=True):
    """Which billing providers there are: one row."""

    __tablename__ = "providers"


PROVIDERS = Stored("providers", ProvidersRow, providers.Choice, providers.evolve)
STATES = (PROVIDERS,)
