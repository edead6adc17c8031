"""States and errors of webhook processing."""

from enum import StrEnum

from paybill_contracts.errors import NotFoundError, RetryLaterError


class MessageState(StrEnum):
    """Processing state of a message. QUARANTINED: of another mode or account, and never processed."""

    WAITING = "waiting"
    DONE = "done"
    QUARANTINED = "quarantined"


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
