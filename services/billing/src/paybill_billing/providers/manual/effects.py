"""The provider `manual`: what another provider keeps on its side is an agreement of ours, and people settle it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol, assert_never

from paybill_contracts.catalogue import Price
from paybill_contracts.changes import ChangeKind, Proration
from paybill_contracts.errors import DomainError, RetryLaterError
from paybill_contracts.manual import Contract, ContractStatus, InvoiceStatus, Terms

from paybill_billing.catalogue.domain.catalogue import PriceSeen
from paybill_billing.providers.manual.domain import manual
from paybill_billing.providers.manual.domain.contracts import (
    OFFER_VALID,
    OWED,
    Agreement,
    ContractNotRunningError,
    ManualEvent,
    contract_id,
    contract_of,
    existing,
    priced,
    terms_of,
)
from paybill_billing.providers.port import Order, ProviderAwayError, ProviderRefusedError, Wanted
from paybill_billing.subscriptions.domain.accounts import Opened
from paybill_billing.subscriptions.domain.subscriptions import Item, PendingSeen, Seen

BUSY_S = 1.0

Decide = Callable[[Agreement | None, datetime], Sequence[ManualEvent]]


class Books(Protocol):
    """Where agreements are kept."""

    async def read(self, id_: str) -> Agreement | None:
        """An agreement as it is now; None when there is none."""

    async def decide(self, id_: str, cause: str, decide: Decide, *, follow: bool = True) -> Agreement | None:
        """The agreement after what was decided about it. follow: its subscription is looked at again."""


class Manual:
    """Customers who pay by invoice. The ids of customer, checkout and subscription are that of the contract."""

    def __init__(self, books: Books, offer_url: str) -> None:
        """offer_url: where a customer reads its offer; the contract's id follows."""
        self._books = books
        self._offer_url = offer_url

    async def open(self, order: Order, key: str) -> Opened:
        """Make an offer: one of the plan, at its first price. What was offered before stays."""

        def decide(agreement: Agreement | None, now: datetime) -> Sequence[ManualEvent]:
            if agreement is not None:
                return []
            price = priced(order.plan, None, None)
            terms = terms_of(order.plan.plan, order.plan.version, price, 1)
            return manual.offer(None, order.tenant_id, terms, now + OFFER_VALID)

        id_ = contract_id(order.tenant_id)
        with _answers():
            await self._books.decide(id_, key, decide, follow=False)
        return Opened(customer=id_, checkout=id_, checkout_url=f"{self._offer_url}{id_}")

    async def look(self, subscription: str) -> Seen | None:
        """The contract as any provider would show it; None before something was ordered."""
        agreement = await self._books.read(subscription)
        return None if agreement is None or agreement.contract is None else seen(agreement, agreement.contract)

    async def leave(self, customer: str) -> None:
        """End the contract and withdraw the offer. Invoices that are open stay owed until they are paid or voided."""
        with _answers():
            await self._books.decide(
                customer, customer, lambda agreement, now: manual.leave(agreement, now) if agreement is not None else []
            )

    async def quote(self, subscription: str, wanted: Wanted, at: datetime) -> Proration:
        """What the change would cost if it were made at `at`: it is decided, and not recorded."""
        with _answers():
            agreement = existing(await self._books.read(subscription), subscription)
            return manual.cost(agreement, _decided(agreement, wanted, at, None), at)

    async def change(self, subscription: str, wanted: Wanted, at: datetime, key: str) -> None:
        """Make the change, prorated as it was quoted for `at`, once for each `key`."""

        def decide(agreement: Agreement | None, _: datetime) -> Sequence[ManualEvent]:
            found = existing(agreement, subscription)
            return [] if key in found.made else _decided(found, wanted, at, key)

        with _answers():
            await self._books.decide(subscription, key, decide)


def seen(agreement: Agreement, contract: Contract) -> Seen:
    """The contract in the words that subscriptions are followed in."""
    owed = [invoice for invoice in agreement.invoices if invoice.status in OWED]
    overdue = [invoice.due_at for invoice in owed if invoice.status is InvoiceStatus.OVERDUE]
    pending = contract.next_terms
    return Seen(
        id=agreement.id,
        customer=agreement.id,
        tenant=agreement.tenant_id,
        status=_status(contract, is_overdue=bool(overdue)),
        collection_paused=False,
        items=(_item(contract.terms),),
        period_start=contract.period_start,
        period_end=contract.period_end,
        cancel_at=contract.cancel_at,
        invoice=owed[-1].invoice_id if owed else None,
        trial_end=contract.anchor if contract.status is ContractStatus.TRIALING else None,
        paid_until=agreement.paid_until,
        failed_at=min(overdue, default=None),
        pending=PendingSeen((_item(pending),), contract.period_end) if pending is not None else None,
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


def _item(terms: Terms) -> Item:
    name = f"{terms.plan}@{terms.version}"
    return Item(PriceSeen(name, None, terms.plan, terms.version), terms.quantity, terms.unit_price, terms.interval)


def _decided(agreement: Agreement, wanted: Wanted, at: datetime, key: str | None) -> Sequence[ManualEvent]:
    match wanted.kind:
        case ChangeKind.PLAN:
            terms = _terms(contract_of(agreement).terms, wanted)
            return manual.change(agreement, terms, at_period_end=wanted.at_period_end, at=at, made_for=key)
        case ChangeKind.CANCEL:
            return manual.cancel(agreement, at_period_end=wanted.at_period_end, at=at, made_for=key)
        case ChangeKind.REACTIVATE:
            return manual.reactivate(agreement, made_for=key)
        case ChangeKind.PAUSE | ChangeKind.RESUME if wanted.at_period_end:
            raise ContractNotRunningError("a contract is paused and resumed now, not at the end of its period")
        case ChangeKind.PAUSE:
            return manual.pause(agreement, made_for=key)
        case ChangeKind.RESUME:
            return manual.resume(agreement, at=at, made_for=key)
        case _:
            assert_never(wanted.kind)


def _terms(now: Terms, wanted: Wanted) -> Terms:
    """What is wanted, and for the rest what is there; another plan without a price is paid as this one is."""
    price = wanted.price
    if price is None and wanted.plan is not None:
        price = priced(wanted.plan, now.interval, now.unit_price.currency)
    if price is None:
        price = Price(amount=now.unit_price, interval=now.interval, provider_prices={})
    plan, version = (now.plan, now.version) if wanted.plan is None else (wanted.plan.plan, wanted.plan.version)
    return terms_of(plan, version, price, now.quantity if wanted.quantity is None else wanted.quantity)


@contextmanager
def _answers() -> Iterator[None]:
    """A rule's no is a provider's no."""
    try:
        yield
    except RetryLaterError as error:
        raise ProviderAwayError(BUSY_S, str(error)) from error
    except DomainError as error:
        raise ProviderRefusedError(f"{error.code}: {error}") from error
