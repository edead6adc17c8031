"""HTTP routes of the provider `manual`: offers, purchase orders and invoices, for the accounting team."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Self

from fastapi import APIRouter, Query
from paybill_contracts.catalogue import Interval
from paybill_contracts.errors import ConflictError
from paybill_contracts.inputs import PlainText
from paybill_contracts.manual import Contract, ContractId, Invoice, InvoiceId, InvoiceStatus, Offer, Terms
from paybill_contracts.values import Key, TenantId, Timestamp
from paybill_runtime.decisions.aggregates import Key as StateKey
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.caller import Caller
from paybill_runtime.http.listing import Limit, load_page, load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from sqlmodel import col

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.domain.catalogue import Catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.http import DryRun, Operator, Viewer
from paybill_billing.providers.manual.domain import contracts, manual
from paybill_billing.providers.manual.domain.contracts import (
    MANUAL,
    PAYMENT_DAYS,
    ManualContract,
    ManualEvent,
    NoValidOfferError,
    contract_id,
    existing,
    priced,
    terms_of,
)
from paybill_billing.providers.manual.tables import CONTRACTS, INVOICES, ContractRow
from paybill_billing.providers.sync_queue import enqueue_sync
from paybill_billing.subscriptions.domain.accounts import Account, UnknownTenantError
from paybill_billing.subscriptions.tables import ACCOUNTS

Quantity = Annotated[int, Field(ge=1, le=10**9)]

_HAS_OFFER = col(ContractRow.state)["offer"].as_string().is_not(None)
_INVOICE = TypeAdapter(Invoice)


class PaysElsewhereError(ConflictError):
    """Raised when the tenant's account is at another provider."""

    code = "pays_elsewhere"


class CustomerLeavesError(ConflictError):
    """Raised when a customer that is leaving gets an offer or orders."""

    code = "customer_leaves"


class Body(BaseModel):
    """A request body; an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OfferBody(Body):
    """A new offer, which replaces the one before. For the same plan, what is null stays as in that one."""

    plan: Annotated[Key | None, Field(description="A plan on sale; null for that of the offer or the sign-up.")] = None
    interval: Annotated[
        Interval | None, Field(description="Billing interval; null for that of the offer or the plan's first price.")
    ] = None
    quantity: Annotated[Quantity | None, Field(description="Null for that of the offer, or 1.")] = None
    valid_days: Annotated[int, Field(ge=1, le=365)] = contracts.OFFER_VALID.days


class AcceptBody(Body):
    """A purchase order. A field that is null is taken from the offer."""

    order: Annotated[PlainText, Field(description="The customer's purchase order number.", examples=["PO 4711"])]
    interval: Interval | None = None
    quantity: Quantity | None = None
    payment_days: Annotated[int, Field(ge=0, le=365, description="From an invoice to its due date.")] = PAYMENT_DAYS


class PaidBody(Body):
    """The payment of an invoice."""

    reference: Annotated[
        PlainText, Field(description="Kept permanently in the log: no personal data.", examples=["bank 17-3"])
    ]


class VoidBody(Body):
    """The reason for voiding an invoice."""

    reason: Annotated[PlainText, Field(description="Kept permanently in the log: no personal data.")]


class ManualContractView(BaseModel):
    """A tenant's offer, contract and invoices: the unpaid ones, and the newest settled ones."""

    tenant_id: TenantId
    contract_id: ContractId
    offer: Offer | None
    contract: Contract | None
    invoices: list[Invoice]
    paid_until: Timestamp | None

    @classmethod
    def of(cls, state: ManualContract) -> Self:
        """Returns the view of `state`."""
        return cls(
            tenant_id=state.tenant_id,
            contract_id=state.id,
            offer=state.offer,
            contract=state.contract,
            invoices=list(state.invoices),
            paid_until=state.paid_until,
        )


class OfferPage(BaseModel):
    """Manual contracts with an open offer, in the order of their ids."""

    offers: list[ManualContractView]
    next: Annotated[ContractId | None, Field(description="Send it as `after` for the next page; null on the last.")]


class InvoiceView(Invoice):
    """An invoice with its tenant."""

    tenant_id: TenantId


class InvoicePage(BaseModel):
    """Invoices in the order of their ids."""

    invoices: list[InvoiceView]
    next: Annotated[InvoiceId | None, Field(description="Send it as `after` for the next page; null on the last.")]


Decision = Callable[[UnitOfWork, ManualContract | None, datetime], Sequence[ManualEvent]]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of the provider `manual`."""
    routes = Router(prefix="/v1/manual", tags=["manual"])

    async def act(
        principal: Caller,
        tenant_id: str,
        verb: str,
        decision: Decision,
        *,
        dry_run: bool,
        reads: Sequence[StateKey] = (),
    ) -> ManualContractView:
        """Decides and records, or only returns the result (`dry_run`); all but an offer enqueue a subscription sync."""
        id_ = contract_id(tenant_id)

        def decide(unit: UnitOfWork, at: DecisionContext) -> ManualContractView:
            state = unit.get(CONTRACTS, id_)
            events = decision(unit, state, at.now)
            if not dry_run:
                unit.record(CONTRACTS, id_, events)
            for event in events:
                state = contracts.evolve(state, event)
            return ManualContractView.of(existing(state, tenant_id))

        if dry_run:
            return await context.decide(principal.origin, decide, reads=[CONTRACTS.key(id_), *reads])
        return await context.decide(
            principal.origin,
            decide,
            writes=[CONTRACTS.key(id_)],
            reads=reads,
            extra_statements=partial(enqueue_sync, MANUAL, id_, context.now()) if verb != "offer" else None,
            idempotency=principal.idempotency,
            response_type=ManualContractView,
            verb=verb,
            target=tenant_id,
        )

    @routes.get("/offers")
    async def show_offers(
        _: Viewer,
        after: Annotated[ContractId | None, Query(description="Only ids after this one.")] = None,
        limit: Limit = 50,
    ) -> OfferPage:
        """Returns a page of open offers."""
        contracts_page, next_ = await load_page(context, CONTRACTS, after, limit, _HAS_OFFER)
        return OfferPage(offers=[ManualContractView.of(state) for state in contracts_page], next=next_)

    @routes.get("/contracts/{tenant_id}")
    async def show(tenant_id: TenantId, _: Viewer) -> ManualContractView:
        """Returns a tenant's offer, contract and invoices."""
        return ManualContractView.of(existing(await load_state(context, CONTRACTS, contract_id(tenant_id)), tenant_id))

    @routes.post("/contracts/{tenant_id}/offer")
    async def offer(
        tenant_id: TenantId, body: OfferBody, principal: Operator, *, dry_run: DryRun = False
    ) -> ManualContractView:
        """Makes an offer, which replaces the one before.

        Refused with `unknown_tenant`, `pays_elsewhere`, `customer_leaves`, `contract_runs` (change it instead),
        `unknown_plan`, `impossible_terms`.
        """

        def decision(unit: UnitOfWork, state: ManualContract | None, now: datetime) -> Sequence[ManualEvent]:
            account = _account(unit, tenant_id)
            before = state.offer.terms if state is not None and state.offer is not None else None
            name = body.plan or (before.plan if before is not None else account.plan)
            plan = catalogue.on_sale(_catalogue(unit), name)
            kept = before if before is not None and before.plan == name else None
            interval = body.interval or (kept.interval if kept is not None else None)
            currency = kept.unit_price.currency if kept is not None else None
            quantity = body.quantity or (kept.quantity if kept is not None else 1)
            terms = terms_of(plan.plan, plan.version, priced(plan, interval, currency), quantity)
            return manual.offer(state, tenant_id, terms, now + timedelta(days=body.valid_days))

        return await act(principal, tenant_id, "offer", decision, dry_run=dry_run, reads=_reads(tenant_id))

    @routes.post("/contracts/{tenant_id}/accept")
    async def accept(
        tenant_id: TenantId, body: AcceptBody, principal: Operator, *, dry_run: DryRun = False
    ) -> ManualContractView:
        """Accepts a purchase order: access begins, and the first invoice is issued.

        Idempotent for the same order. Refused with `no_contract`, `nothing_offered`, `customer_leaves`,
        `contract_runs`, `impossible_terms`.
        """

        def decision(unit: UnitOfWork, known: ManualContract | None, now: datetime) -> Sequence[ManualEvent]:
            state, _ = existing(known, tenant_id), _account(unit, tenant_id)
            default = _default_terms(state)
            plan = catalogue.published(_catalogue(unit), default.plan, default.version).plan
            price = priced(plan, body.interval or default.interval, default.unit_price.currency)
            return manual.accept(
                state,
                order=body.order,
                terms=terms_of(plan.plan, plan.version, price, body.quantity or default.quantity),
                payment_days=body.payment_days,
                trial_days=plan.trial_days,
                now=now,
            )

        return await act(principal, tenant_id, "accept", decision, dry_run=dry_run, reads=_reads(tenant_id))

    @routes.get("/invoices")
    async def show_invoices(
        _: Viewer,
        status: Annotated[InvoiceStatus | None, Query(description="Only invoices with this status.")] = None,
        tenant_id: Annotated[TenantId | None, Query(description="Only invoices of this tenant.")] = None,
        after: Annotated[InvoiceId | None, Query(description="Only ids after this one.")] = None,
        limit: Limit = 50,
    ) -> InvoicePage:
        """Returns a page of invoices: all unpaid ones, and the newest settled ones of each tenant."""
        id_filter = contract_id(tenant_id) if tenant_id is not None else None
        values = {"after": after or "", "id": id_filter, "status": status, "limit": limit + 1}
        rows = await context.rows(INVOICES, values)
        page = [
            InvoiceView(tenant_id=_tenant_of(row.id), **dict(_INVOICE.validate_json(row.invoice)))
            for row in rows[:limit]
        ]
        return InvoicePage(invoices=page, next=page[-1].invoice_id if len(rows) > limit else None)

    @routes.post("/invoices/{invoice_id}/paid")
    async def paid(
        invoice_id: InvoiceId, body: PaidBody, principal: Operator, *, dry_run: DryRun = False
    ) -> ManualContractView:
        """Records the payment of an invoice. Idempotent.

        Refused with `no_contract`, `unknown_invoice`, `invoice_settled`.
        """
        tenant_id = _tenant_of(invoice_id)

        def decision(_: UnitOfWork, state: ManualContract | None, now: datetime) -> Sequence[ManualEvent]:
            return manual.pay(existing(state, tenant_id), invoice_id, body.reference, now)

        return await act(principal, tenant_id, "paid", decision, dry_run=dry_run)

    @routes.post("/invoices/{invoice_id}/void")
    async def void(
        invoice_id: InvoiceId, body: VoidBody, principal: Operator, *, dry_run: DryRun = False
    ) -> ManualContractView:
        """Voids an invoice. Idempotent.

        Refused with `no_contract`, `unknown_invoice`, `invoice_settled`.
        """
        tenant_id = _tenant_of(invoice_id)

        def decision(_: UnitOfWork, state: ManualContract | None, now: datetime) -> Sequence[ManualEvent]:
            return manual.void(existing(state, tenant_id), invoice_id, body.reason, now)

        return await act(principal, tenant_id, "void", decision, dry_run=dry_run)

    return routes


def _reads(tenant_id: str) -> list[StateKey]:
    return [ACCOUNTS.key(tenant_id), CATALOGUES.key(catalogue.CATALOGUE)]


def _tenant_of(id_: str) -> str:
    """Returns the tenant of the contract or invoice with this id."""
    return f"ten_{id_.split('_')[1]}"


def _default_terms(state: ManualContract) -> Terms:
    """Returns the default terms of an order: those of the offer, or of the accepted contract."""
    if state.offer is not None:
        return state.offer.terms
    if state.contract is not None:
        return state.contract.terms
    raise NoValidOfferError(f"{state.tenant_id} has no offer; make one: paybill manual offer {state.tenant_id}")


def _account(unit: UnitOfWork, tenant_id: str) -> Account:
    account = unit.get(ACCOUNTS, tenant_id)
    if account is None:
        raise UnknownTenantError(f"there is no account of {tenant_id}")
    if account.provider != MANUAL:
        raise PaysElsewhereError(f"{tenant_id} pays at {account.provider}, not by invoice")
    if account.leaving:
        raise CustomerLeavesError(f"{tenant_id} is leaving and cannot order")
    return account


def _catalogue(unit: UnitOfWork) -> Catalogue:
    return catalogue.existing(unit.get(CATALOGUES, catalogue.CATALOGUE))
