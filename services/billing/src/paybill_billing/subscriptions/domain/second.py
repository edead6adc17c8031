"""Second subscriptions: a customer that pays for two plans at once, which may be a mistake."""

from collections.abc import Iterable

from paybill_contracts.billing import Subscription
from paybill_contracts.incidents import Evidence, Finding
from paybill_contracts.money import Money

from paybill_billing.subscriptions.domain.entitling import entitling_subscriptions

SECOND = "second_subscription"
"""Kind of the incident."""
UNKNOWN = "subscriptions_unknown"
"""Kind of the incident about a customer whose subscriptions cannot be listed."""
UNKNOWN_SUMMARY = "the subscriptions of the customer cannot be listed, so that what it pays for by mistake is not found"
MAX_SHOWN = 10
"""Subscriptions that the evidence shows."""


def subject_of(tenant_id: str) -> str:
    """Returns the subject of the incident about the subscriptions of a tenant."""
    return f"tenant/{tenant_id}"


def finding_of(tenant_id: str, held: Iterable[Subscription]) -> Finding | None:
    """Returns the incident about several subscriptions that give access; None for one. held: those of the tenant."""
    found = entitling_subscriptions(held)
    if len(found) <= 1:
        return None
    evidence = []
    for number, each in enumerate(found[:MAX_SHOWN], 1):
        amount = Money(minor=each.price.minor * each.quantity, currency=each.price.currency).text
        evidence += [
            Evidence(name=f"subscription_{number}", value=each.provider_subscription),
            Evidence(name=f"amount_{number}", value=f"{amount} each {each.interval}" if each.interval else amount),
        ]
    first, other, *more = [each.provider_subscription for each in found]
    ids = f"{first}, {other} and {len(more)} more" if more else f"{first} and {other}"
    return Finding(
        kind=SECOND,
        subject=subject_of(tenant_id),
        summary=f"the customer pays for {ids} at {found[0].provider} at the same time; end what it did not intend",
        evidence=tuple(evidence),
        tenant_id=tenant_id,
        command=f"paybill tenant portal {tenant_id}",
    )
