"""Adapter of the provider `manual`: its records are manual contracts of this service."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol, assert_never

from paybill_contracts.catalogue import PlanVersion, Price
from paybill_contracts.changes import ChangeKind, Proration
from paybill_contracts.errors import DomainError, RetryLaterError
from paybill_contracts.manual import Contract, ContractStatus, InvoiceStatus, Terms
from paybill_contracts.money import Money
from paybill_contracts.purchases import PurchaseTerms

from paybill_billing.providers.manual.domain import manual
from paybill_billing.providers.manual.domain.contracts import (
    OFFER_VALID,
    UNPAID,
    ContractNotRunningError,
    Decide,
    ManualContract,
    ManualEvent,
    contract_id,
    contract_of,
    existing,
    priced,
    terms_of,
)
from paybill_billing.providers.port import (
    DesiredSubscription,
    Order,
    ProviderRefusedError,
    ProviderUnavailableError,
    Purchase,
    QuoteOutdatedError,
)
from paybill_billing.providers.port.desired import costs_as_confirmed
from paybill_billing.providers.port.snapshots import (
    OpenedAccount,
    OpenedCheckout,
    PendingSnapshot,
    PriceSnapshot,
    ProviderSnapshot,
    SnapshotItem,
)

RETRY_S = 1.0


class ManualContractStore(Protocol):
    """Storage of manual contracts."""

    async def read(self, id_: str) -> ManualContract | None:
        """Returns the current manual contract; None when there is none."""

    async def decide(self, id_: str, cause: str, decide: Decide, *, enqueue: bool = True) -> ManualContract | None:
        """Records the decision and returns the new state. enqueue: also enqueue a sync of the subscription."""


class Manual:
    """Provider for customers who pay by invoice. The contract's id is the id of customer, checkout and subscription."""

    def __init__(self, store: ManualContractStore, offer_url: str) -> None:
        """offer_url: prefix of the link to an offer; the contract's id is appended."""
        self._store = store
        self._offer_url = offer_url

    async def open(self, order: Order, key: str) -> OpenedAccount:
        """Makes an offer with the terms of the order; keeps an earlier offer. A coupon is refused."""

        def decide(state: ManualContract | None, now: datetime) -> Sequence[ManualEvent]:
            if state is not None:
                return []
            return manual.offer(None, order.tenant_id, _ordered(order.plan, order.terms), now + OFFER_VALID)

        id_ = contract_id(order.tenant_id)
        with _provider_errors():
            await self._store.decide(id_, key, decide, enqueue=False)
        return OpenedAccount(customer=id_, checkout=id_, checkout_url=f"{self._offer_url}{id_}")

    async def checkout(self, purchase: Purchase, key: str) -> OpenedCheckout:
        """Keeps the offer while it is valid; else makes it again with the terms of the purchase."""

        def decide(state: ManualContract | None, now: datetime) -> Sequence[ManualEvent]:
            if state is not None and state.offer is not None and now < state.offer.valid_until:
                return []
            return manual.offer(state, purchase.tenant_id, _ordered(purchase.plan, purchase.terms), now + OFFER_VALID)

        id_ = contract_id(purchase.tenant_id)
        with _provider_errors():
            await self._store.decide(id_, key, decide, enqueue=False)
        return OpenedCheckout(id_, f"{self._offer_url}{id_}")

    async def fetch(self, subscription: str) -> ProviderSnapshot | None:
        """Returns the snapshot of the contract; None before a purchase order."""
        state = await self._store.read(subscription)
        return None if state is None or state.contract is None else snapshot_of(state, state.contract)

    async def cancel_all(self, customer: str) -> None:
        """Ends the contract and withdraws the offer. Open invoices stay open until they are paid or voided."""
        with _provider_errors():
            await self._store.decide(
                customer, customer, lambda state, now: manual.leave(state, now) if state is not None else []
            )

    async def debt_of(self, customer: str) -> tuple[Money, ...]:
        """Returns the amounts of the overdue invoices."""
        state = await self._store.read(customer)
        invoices = state.invoices if state is not None else ()
        return tuple(invoice.total for invoice in invoices if invoice.status is InvoiceStatus.OVERDUE)

    async def quote(self, subscription: str, desired: DesiredSubscription, at: datetime) -> Proration:
        """Returns the cost of the change at `at`: it decides the change and does not record it."""
        with _provider_errors():
            state = existing(await self._store.read(subscription), subscription)
            return manual.quote(state, _decide_change(state, desired, at, None), at)

    async def change(self, subscription: str, desired: DesiredSubscription, at: datetime, key: str) -> None:
        """Applies the change, prorated as quoted for `at`. Idempotent by `key`."""

        def decide(state: ManualContract | None, _: datetime) -> Sequence[ManualEvent]:
            found = existing(state, subscription)
            if key in found.made:
                return []
            events = _decide_change(found, desired, at, key)
            if desired.confirmed is not None:
                current = manual.quote(found, events, at)
                if not costs_as_confirmed(desired, desired.confirmed, current):
                    raise QuoteOutdatedError(current)
            return events

        with _provider_errors():
            await self._store.decide(subscription, key, decide)


def _ordered(plan: PlanVersion, terms: PurchaseTerms) -> Terms:
    if terms.coupon is not None:
        raise ProviderRefusedError("payment by invoice knows no coupons; agree on the price in the offer")
    return terms_of(plan.plan, plan.version, priced(plan, terms.interval, terms.currency), terms.quantity)


def snapshot_of(state: ManualContract, contract: Contract) -> ProviderSnapshot:
    """Returns the contract as a provider snapshot."""
    owed = [invoice for invoice in state.invoices if invoice.status in UNPAID]
    late = [invoice for invoice in owed if invoice.status is InvoiceStatus.OVERDUE]
    overdue = [invoice.due_at for invoice in late]
    pending = contract.next_terms
    return ProviderSnapshot(
        id=state.id,
        customer=state.id,
        tenant=state.tenant_id,
        status=_status(contract, is_overdue=bool(overdue)),
        collection_paused=False,
        items=(_item(contract.terms),),
        period_start=contract.period_start,
        period_end=contract.period_end,
        cancel_at=contract.cancel_at,
        invoice=owed[-1].invoice_id if owed else None,
        trial_end=contract.anchor if contract.status is ContractStatus.TRIALING else None,
        paid_until=state.paid_until,
        failed_at=min(overdue, default=None),
        pending=PendingSnapshot((_item(pending),), contract.period_end) if pending is not None else None,
        overdue=late[-1].total if late else None,
        earlier_unpaid=len(owed) > 1,
    )


def _status(contract: Contract, *, is_overdue: bool) -> str:
    match contract.status:
        case ContractStatus.CANCELLED:
            return "canceled"
        case ContractStatus.PAUSED:
            return "paused"
        case ContractStatus.UNPAID:
            return "unpaid"
        case ContractStatus.ACTIVE | ContractStatus.TRIALING if is_overdue:
            return "past_due"
        case ContractStatus.ACTIVE | ContractStatus.TRIALING:
            return contract.status.value
        case _:
            assert_never(contract.status)


def _item(terms: Terms) -> SnapshotItem:
    name = f"{terms.plan}@{terms.version}"
    return SnapshotItem(
        PriceSnapshot(name, None, terms.plan, terms.version), terms.quantity, terms.unit_price, terms.interval
    )


def _decide_change(
    state: ManualContract, desired: DesiredSubscription, at: datetime, key: str | None
) -> Sequence[ManualEvent]:
    match desired.kind:
        case ChangeKind.PLAN if desired.without_proration and not desired.at_period_end:
            raise ContractNotRunningError(
                "an invoice of the contract is not paid; settle it, or change at the period end"
            )
        case ChangeKind.PLAN:
            terms = _terms(contract_of(state).terms, desired)
            return manual.change(state, terms, at_period_end=desired.at_period_end, at=at, made_for=key)
        case ChangeKind.CANCEL:
            return manual.cancel(state, at_period_end=desired.at_period_end, at=at, made_for=key)
        case ChangeKind.REACTIVATE:
            return manual.reactivate(state, made_for=key)
        case ChangeKind.PAUSE | ChangeKind.RESUME if desired.at_period_end:
            raise ContractNotRunningError("a contract can be paused and resumed now only, not at the end of its period")
        case ChangeKind.PAUSE:
            return manual.pause(state, made_for=key)
        case ChangeKind.RESUME:
            return manual.resume(state, at=at, made_for=key)
        case _:
            assert_never(desired.kind)


def _terms(now: Terms, desired: DesiredSubscription) -> Terms:
    """Returns the new terms; a part that is not desired stays. A plan without a price keeps interval and currency."""
    price = desired.price
    if price is None and desired.plan is not None:
        price = priced(desired.plan, now.interval, now.unit_price.currency)
    if price is None:
        price = Price(amount=now.unit_price, interval=now.interval, provider_prices={})
    plan, version = (now.plan, now.version) if desired.plan is None else (desired.plan.plan, desired.plan.version)
    return terms_of(plan, version, price, now.quantity if desired.quantity is None else desired.quantity)


@contextmanager
def _provider_errors() -> Iterator[None]:
    """Translates the errors of the rules to those of a provider."""
    try:
        yield
    except RetryLaterError as error:
        raise ProviderUnavailableError(RETRY_S, str(error)) from error
    except DomainError as error:
        raise ProviderRefusedError(f"{error.code}: {error}") from error
