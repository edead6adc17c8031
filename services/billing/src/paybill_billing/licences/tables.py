"""Tables of licences, signing keys and the revocation list."""

from paybill_runtime.decisions.aggregates import Stored, generated
from sqlalchemy import Text, cast, literal, select, text, union_all
from sqlmodel import col

from paybill_billing.database import Base
from paybill_billing.licences.domain import licence_keys, licences, revocations
from paybill_billing.licences.domain.licence_keys import KEYRING
from paybill_billing.licences.domain.revocations import REVOCATIONS


class LicenceRow(Base, table=True):
    """A licence. kid: the key that signed the licence in force. due: when it is renewed."""

    __tablename__ = "licences"

    tenant_id: str = generated("state->>'tenant_id'", index=True)
    status: str = generated("state->>'status'")
    kid: str | None = generated("state->'claims'->>'kid'")
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


class KeyringRow(Base, table=True):
    """The signing keys, in a single row. due: when the next key retires."""

    __tablename__ = "licence_keys"

    due: str | None = generated("rtrim(state->>'due', 'Z')")


class RevocationListRow(Base, table=True):
    """The revocation list, in a single row. due: when the next list is issued."""

    __tablename__ = "licence_revocations"

    due: str | None = generated("rtrim(state->>'due', 'Z')")


LICENCES = Stored("licence", LicenceRow, licences.Licence, licences.evolve)
KEYRINGS = Stored("licence-keys", KeyringRow, licence_keys.Keyring, licence_keys.evolve)
REVOCATION_LISTS = Stored("licence-revocations", RevocationListRow, revocations.RevocationList, revocations.evolve)
STATES = (LICENCES, KEYRINGS, REVOCATION_LISTS)
LONGEST_VALIDITY = text(
    "SELECT max(state->>'last_expiry') AS ends, max((state->>'valid_s')::bigint) AS valid_s FROM licences"
)
"""The latest expiry of all licences, and the longest validity of those that are renewed."""
PUBLISHED_STATES = union_all(
    select(literal("keys").label("name"), cast(col(KeyringRow.state), Text).label("state")).where(
        col(KeyringRow.id) == KEYRING
    ),
    select(literal("revocations"), cast(col(RevocationListRow.state), Text)).where(
        col(RevocationListRow.id) == REVOCATIONS
    ),
)
