"""Rows of the provider `manual`, and the storage that its adapter uses."""

from functools import partial

from paybill_contracts.envelope import Origin
from paybill_runtime.decisions.aggregates import Stored, generated
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import state_column
from sqlalchemy import text
from sqlmodel import col, select

from paybill_billing.database import Base
from paybill_billing.providers.manual.domain import contracts
from paybill_billing.providers.manual.domain.contracts import MANUAL, Decide, ManualContract
from paybill_billing.providers.sync_queue import enqueue_sync


class ContractRow(Base, table=True):
    """A manual contract. `due` is the next due date of an invoice, or the end of the period."""

    __tablename__ = "contracts"

    status: str | None = generated("state->'contract'->>'status'", index=True)
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


CONTRACTS = Stored("contract", ContractRow, contracts.ManualContract, contracts.evolve)
STATES = (CONTRACTS,)


class ManualContractTable:
    """Manual contracts in this service's tables. `set_context` must be called before any other method."""

    def __init__(self) -> None:
        self._context: ServiceContext | None = None

    async def set_context(self, context: ServiceContext) -> None:
        """Sets the service context."""
        self._context = context

    async def read(self, id_: str) -> ManualContract | None:
        """Returns the current manual contract; None when there is none."""
        query = select(state_column(CONTRACTS)).where(col(ContractRow.id) == id_)
        rows = await self._required_context().rows(query)
        return CONTRACTS.load(rows[0].state) if rows else None

    async def decide(self, id_: str, cause: str, decide: Decide, *, enqueue: bool = True) -> ManualContract | None:
        """Records the decision and returns the new state. enqueue: also enqueue a sync of the subscription."""
        context = self._required_context()

        def decided(unit: UnitOfWork, at: DecisionContext) -> ManualContract | None:
            unit.record(CONTRACTS, id_, decide(unit.get(CONTRACTS, id_), at.now))
            return unit.get(CONTRACTS, id_)

        return await context.decide(
            Origin(cause, cause, "service:billing", ""),
            decided,
            writes=[CONTRACTS.key(id_)],
            extra_statements=partial(enqueue_sync, MANUAL, id_, context.now()) if enqueue else None,
        )

    def _required_context(self) -> ServiceContext:
        if self._context is None:
            raise RuntimeError("the contract store was used before set_context()")
        return self._context


INVOICES = text(
    "SELECT id, invoice::text AS invoice FROM contracts, "
    "jsonb_array_elements(state->'invoices') WITH ORDINALITY AS n (invoice, place) "
    "WHERE invoice->>'invoice_id' > :after AND (CAST(:id AS text) IS NULL OR id = :id) "
    "AND (CAST(:status AS text) IS NULL OR invoice->>'status' = :status) ORDER BY invoice->>'invoice_id' LIMIT :limit"
)
