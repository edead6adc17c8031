"""Rules of webhook processing: customers whose objects are dismissed, and the states and errors of messages."""

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from paybill_contracts.billing import AccountAdopted, AccountOpened, CustomerDismissed, CustomerReadmitted
from paybill_contracts.errors import NotFoundError, RetryLaterError

DismissalEvent = CustomerDismissed | CustomerReadmitted


class MessageState(StrEnum):
    """Processing state of a message. QUARANTINED: of another mode or account, and never processed."""

    WAITING = "waiting"
    DONE = "done"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class DismissedCustomer:
    """A customer of a provider that is not ours. id: `<provider>/<customer>`. active: False after it got an account."""

    id: str
    reason: str
    active: bool = True


def customer_key(provider: str, customer: str) -> str:
    """Returns the id of a dismissed customer."""
    return f"{provider}/{customer}"


def dismiss(known: DismissedCustomer | None, provider: str, customer: str, reason: str) -> list[DismissalEvent]:
    """Dismisses the objects of a customer that is not ours."""
    if known is not None and known.active:
        return []
    id_ = customer_key(provider, customer)
    return [CustomerDismissed(dismissed=id_, provider=provider, customer=customer, reason=reason)]


def on_account_opened(known: DismissedCustomer | None, fact: AccountOpened | AccountAdopted) -> list[DismissalEvent]:
    """Ends the dismissal of a customer that has an account now."""
    if known is None or not known.active:
        return []
    return [CustomerReadmitted(dismissed=known.id, provider=fact.provider, customer=fact.customer)]


def evolve(known: DismissedCustomer | None, event: DismissalEvent) -> DismissedCustomer:
    """Returns the customer after `event`."""
    match event:
        case CustomerDismissed():
            return DismissedCustomer(id=event.dismissed, reason=event.reason)
        case CustomerReadmitted():
            reason = known.reason if known is not None else ""
            return DismissedCustomer(id=event.dismissed, reason=reason, active=False)
        case _:
            assert_never(event)


class NotWaitingError(NotFoundError):
    """Raised when an object is retried that is not in the sync queue."""

    code = "not_waiting"


class UnknownCustomerError(Exception):
    """Raised for a customer without an account: it is not open yet, or the customer is not ours."""

    def __init__(self, customer: str, why: str) -> None:
        super().__init__(why)
        self.customer = customer


class StaleReadError(RetryLaterError):
    """Raised when a subscription changed during a fetch, whose result may be older than the change: fetch again."""

    code = "overtaken"
