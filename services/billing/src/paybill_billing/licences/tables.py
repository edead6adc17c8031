"""Rows of licences, signing keys and the revocation list."""

from paybill_runtime.decisions.aggregates import Stored, generated

from paybill_billing.database import Base
from paybill_billing.licences.domain import licence_keys, licences, revocations


class LicenceRow(Base, table=True):
    """A licence. `kid` signed what is in force; `due` is when it is renewed."""

    __tablename__ = "licences"

    tenant_id: str = generated("state->>'tenant_id'", index=True)
    status: str = generated("state->>'status'")
    kid: str | None = generated("state->'claims'->>'kid'")
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


class KeyringRow(Base, table=True):
    """The keys that sign licences: one row. `due` is when one retires."""

    __tablename__ = "licence_keys"

    due: str | None = generated("rtrim(state->>'due', 'Z')")


class RevocationListRow(Base, table=True):
    """The list of revoked licences: one row. `due` is when there has to be another."""

    __tablename__ = "licence_revocations"

    due: str | None = generated("rtrim(state->>'due', 'Z')")


LICENCES = Stored("licence", LicenceRow, licences.Licence, licences.evolve)
KEYRINGS = Stored("licence-keys", KeyringRow, licence_keys.Keyring, licence_keys.evolve)
REVOCATION_LISTS = Stored("licence-revocations", RevocationListRow, revocations.RevocationList, revocations.evolve)
STATES = (LICENCES, KEYRINGS, REVOCATION_LISTS)
