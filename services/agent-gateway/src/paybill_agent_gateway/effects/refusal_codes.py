"""Codes of refusals by PostgreSQL, whose texts never leave the port: they name tables, constraints and keys."""

from typing import Final

from paybill_agent_gateway.domain.columns import ValueRefusedError
from paybill_agent_gateway.effects.connections import DatabaseUnavailableError
from paybill_agent_gateway.statements import REFUSALS, RESOURCE_DRIFTED, ROW_DENIED

ROW_EXISTS = "row_exists"
VALUE_REFUSED = ValueRefusedError.code
DATABASE_UNAVAILABLE = DatabaseUnavailableError.code

_CODES: Final = {
    **REFUSALS,
    "23505": ROW_EXISTS,
    "42501": ROW_DENIED,  # a right of the login, or the row-level security policy
    "0A000": RESOURCE_DRIFTED,  # a rule on the table
    "42P01": RESOURCE_DRIFTED,
    "42703": RESOURCE_DRIFTED,
    "42804": RESOURCE_DRIFTED,
    "3F000": RESOURCE_DRIFTED,
}
_REFUSED_VALUES: Final = ("22", "23", "P0", "44")
"""Classes of SQLSTATE: data, constraints, errors that a trigger raises, and views' checks."""


def code_of(sqlstate: str) -> str:
    """Returns the code of a refusal by PostgreSQL."""
    if sqlstate in _CODES:
        return _CODES[sqlstate]
    return VALUE_REFUSED if sqlstate.startswith(_REFUSED_VALUES) else DATABASE_UNAVAILABLE
