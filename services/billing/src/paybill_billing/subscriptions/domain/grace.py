"""Grace period of a subscription after a failed payment."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from paybill_contracts.billing import AccessState, Subscription

from paybill_billing.providers.port.snapshots import ProviderSnapshot, SnapshotItem

FAILING = frozenset({"past_due", "unpaid"})
"""The provider's words for a failed payment."""


@dataclass(frozen=True, slots=True)
class FailedCollection:
    """The provider could not collect `invoice` at `at`."""

    invoice: str
    at: datetime


def before_failure(before: Subscription | None, snapshot: ProviderSnapshot) -> Subscription | None:
    """Returns the subscription before the failure that the snapshot shows.

    Another invoice, with no earlier one unpaid, proves that the known failure was settled by a payment that no sync
    has seen: the known period is paid, and the new failure has a grace period of its own.
    """
    if before is None or before.unpaid_invoice is None or snapshot.status not in FAILING:
        return before
    if snapshot.invoice in {None, before.unpaid_invoice} or snapshot.earlier_unpaid:
        return before
    settled = {"provider_status": "active", "access": AccessState.ACTIVE, "grace_until": None}
    return before.model_copy(update={**settled, "paid_until": before.period_end})


def was_failing(before: Subscription | None) -> bool:
    """Returns True after a failed collection. A grace period by time alone does not count."""
    return before is not None and before.provider_status in FAILING


def was_suspended(before: Subscription | None) -> bool:
    """Returns True when access has ended because of the failed payment."""
    return before is not None and was_failing(before) and before.access is AccessState.SUSPENDED


def paid_until(before: Subscription | None, snapshot: ProviderSnapshot, item: SnapshotItem) -> datetime | None:
    """Returns the end of the newest paid period, also while a later invoice is open.

    An open invoice within a period does not prove that the period was paid: then the known value counts. An open
    invoice at another price does not shorten the period that was paid at the old price.
    """
    known, reported = before.paid_until if before is not None else None, snapshot.paid_until
    if before is None or known is None or reported is None or snapshot.status not in FAILING:
        return reported
    if snapshot.earlier_unpaid:
        return min(known, reported)
    if reported == snapshot.period_end:
        return min(known, reported) if before.period_start == snapshot.period_start else reported
    is_same_price = (before.price, before.interval) == (item.amount, item.interval)
    return reported if is_same_price else max(known, reported)


def grace_until(
    before: Subscription | None,
    snapshot: ProviderSnapshot,
    grace_s: int,
    paid_until: datetime | None,
    failures: Iterable[FailedCollection],
    now: datetime,
) -> datetime | None:
    """Returns the end of the grace period: the first failure plus the plan's grace, but not before `paid_until`.

    The first failure is the earliest known one, whatever the order of messages; a failure that the provider dates after
    our own clock counts as now. When the provider has stopped collecting, access ends with the paid period.
    """
    if snapshot.status not in FAILING:
        return None
    if paid_until is not None and snapshot.period_start is not None and paid_until <= snapshot.period_start:
        # The paid period had ended when the unpaid one began.
        paid_until = None
    if snapshot.status == "unpaid":
        return paid_until if paid_until is not None and now < paid_until else None
    known = before.grace_until if before is not None and was_failing(before) else None
    if was_suspended(before):
        return known
    fetched = [snapshot.failed_at] if snapshot.failed_at is not None else []
    reported = [failure.at for failure in failures if failure.invoice == snapshot.invoice]
    until = min([now, *fetched, *reported]) + timedelta(seconds=grace_s)
    until = until if known is None else min(until, known)
    return until if paid_until is None else max(until, paid_until)
