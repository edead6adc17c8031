"""Rows of contracts of the provider `manual`."""

from paybill_runtime.decisions.aggregates import Stored, generated

from paybill_billing.database import Base
from paybill_billing.providers.manual.domain import contracts


class ContractRow(Base, table=True):
    """A manual contract. `due` is the next due date of an invoice, or the end of the period."""

    __tablename__ = "contracts"

    status: str | None = generated("state->'contract'->>'status'", index=True)
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


CONTRACTS = Stored("contract", ContractRow, contracts.ManualContract, contracts.evolve)
STATES = (CONTRACTS,)
