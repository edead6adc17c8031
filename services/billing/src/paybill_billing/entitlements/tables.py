"""Table of entitlements."""

from paybill_runtime.decisions.aggregates import Stored, generated

from paybill_billing.database import Base
from paybill_billing.entitlements.domain import entitlements


class EntitlementsRow(Base, table=True):
    """Entitlements of a tenant, by tenant id. due: when an override or a grant begins or ends."""

    __tablename__ = "entitlements"

    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


ENTITLEMENTS = Stored("entitlements", EntitlementsRow, entitlements.Entitlements, entitlements.evolve)
STATES = (ENTITLEMENTS,)
