"""Access after the sync of a subscription."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from paybill_contracts.billing import Subscription, SubscriptionEnded, SubscriptionFact
from paybill_contracts.catalogue import PlanVersion
from paybill_runtime.decisions.unit_of_work import UnitOfWork

from paybill_billing.catalogue.domain.catalogue import Catalogue
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.subscriptions.domain import leftovers
from paybill_billing.subscriptions.domain.accounts import Account
from paybill_billing.subscriptions.domain.entitling import ENTITLING


@dataclass(frozen=True, slots=True)
class AccessChange:
    """The change of a tenant's access by a sync.

    is_second: another subscription gives access, too. is_last: no other one gives access after this end. is_returning:
    the tenant has access, and a checkout for its return can still be used.
    """

    is_second: bool = False
    is_last: bool = False
    is_returning: bool = False


UNCHANGED = AccessChange()


def update_access(
    unit: UnitOfWork,
    account: Account,
    known: Catalogue,
    plan: PlanVersion,
    events: Iterable[SubscriptionFact],
    others: Iterable[Subscription],
    now: datetime,
) -> AccessChange:
    """Records the entitlements after the events of a subscription to `plan`. others: those of the same tenant.

    In the decision of the sync, because the tenant waits for it: handling our own event would cost one more hop.
    """
    change, alternatives = UNCHANGED, list(others)
    for event in events:
        is_entitling = event.subscription.access in ENTITLING
        if account.leaving and is_entitling:
            continue  # it is being cancelled
        before = unit.get(ENTITLEMENTS, account.id)
        has_other = (
            before is not None and before.allows_access and before.subscription_id != event.subscription.subscription_id
        )
        change = AccessChange(
            is_second=has_other and is_entitling,
            is_last=isinstance(event, SubscriptionEnded) and not event.others,
            is_returning=is_entitling and leftovers.unused_checkout(account) is not None,
        )
        fallback = entitlements.fallback_of(alternatives, known)
        applied = entitlements.apply_subscription(before, event.subscription, plan, now, fallback)
        unit.record(ENTITLEMENTS, account.id, applied)
    return change
