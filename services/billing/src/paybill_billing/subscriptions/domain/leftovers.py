"""Leftovers: subscriptions and other objects that can still charge the customer of a tenant that left."""

from collections.abc import Collection
from typing import assert_never

from paybill_contracts.accounts import LeftoverAction, LeftoverEnded, LeftoverFound, LeftoverKind
from paybill_contracts.incidents import CHARGE_WITHOUT_TENANT, Evidence, Finding

from paybill_billing.providers.port.snapshots import PendingCharge, ProviderSnapshot
from paybill_billing.subscriptions.domain.accounts import Account, AccountEvent

LEFTOVER = CHARGE_WITHOUT_TENANT
"""Kind of the incident."""
UNSERVED_PAYMENT = "payment_without_tenant"
"""Kind of the incident about a payment for nothing."""


def subject_of(id_: str, kind: LeftoverKind = LeftoverKind.SUBSCRIPTION) -> str:
    """Returns the subject of the incident about an object of the provider."""
    return f"{kind}/{id_}"


def on_fetched(
    account: Account, snapshot: ProviderSnapshot, action: LeftoverAction, *, is_sold: bool, is_known: bool = False
) -> list[AccountEvent]:
    """Records a leftover, and its end. is_sold: it is a subscription to a plan of the catalogue. is_known: with facts.

    One that was known when an operator offboarded the tenant is being cancelled with the account. After the end of the
    last subscription, one to a plan that gives access, or waits for its first payment, brings the tenant back.
    """
    if snapshot.has_ended:
        if snapshot.id not in account.leftovers:
            return []
        return [LeftoverEnded(tenant_id=account.id, provider=account.provider, subscription=snapshot.id)]
    returns = not account.leaving and is_sold and (snapshot.is_entitling or snapshot.status == "incomplete")
    is_cancelled = account.leaving and is_known
    if not account.is_gone or returns or is_cancelled or snapshot.id in account.leftovers:
        return []
    return [
        LeftoverFound(
            tenant_id=account.id,
            provider=account.provider,
            customer=snapshot.customer,
            subscription=snapshot.id,
            action=action,
        )
    ]


def on_charges_fetched(
    account: Account, customer: str, charges: Collection[PendingCharge], action: LeftoverAction
) -> list[AccountEvent]:
    """Records the charges of a tenant that left, and the end of those that the provider does not have any more.

    The checkout at which the tenant can return is none of them.
    """
    if not account.leaving:
        charges = [
            each for each in charges if each != PendingCharge(LeftoverKind.CHECKOUT, account.return_checkout or "")
        ]
    found = [
        LeftoverFound(
            tenant_id=account.id,
            provider=account.provider,
            customer=customer,
            subscription=charge.id,
            action=action,
            kind=charge.kind,
        )
        for charge in charges
        if account.is_gone and charge not in account.charges
    ]
    ended = [
        LeftoverEnded(tenant_id=account.id, provider=account.provider, subscription=charge.id, kind=charge.kind)
        for charge in account.charges
        if charge not in charges
    ]
    return [*ended, *found]


def unused_checkout(account: Account) -> PendingCharge | None:
    """Returns the checkout for the return of a tenant while it can be used; None for none.

    Once another subscription gives access, the customer would pay twice at it.
    """
    if account.checkout is None or account.checkout_url is None or account.return_checkout != account.checkout:
        return None
    return PendingCharge(LeftoverKind.CHECKOUT, account.checkout)


def finding_of(fact: LeftoverFound, reason: str = "") -> Finding:
    """Returns the incident about a leftover. reason: why it could not be cancelled."""
    evidence = {"customer": fact.customer, fact.kind.value: fact.subscription, "provider": fact.provider}
    if reason:
        evidence["reason"] = reason
    return Finding(
        kind=LEFTOVER,
        subject=subject_of(fact.subscription, fact.kind),
        summary=f"{fact.subscription} at {fact.provider} can still charge the customer of a tenant that left",
        evidence=tuple(Evidence(name=name, value=value) for name, value in evidence.items()),
        tenant_id=fact.tenant_id,
        command=_command(fact),
    )


def unserved_payment(account: Account, snapshot: ProviderSnapshot) -> Finding | None:
    """Returns the incident about a subscription that was paid and cancelled at once; None for any other.

    Its customer paid while the sign-up was abandoned, after the tenant began to leave, or to return when an operator
    ruled that out. account: before its end.
    """
    is_unserved = account.leaving and (account.abandoned or account.closed or snapshot.id in account.leftovers)
    start, paid_until = snapshot.period_start, snapshot.paid_until
    is_trial = paid_until is not None and snapshot.trial_end is not None and paid_until <= snapshot.trial_end
    if (
        not is_unserved
        or not snapshot.has_ended
        or start is None
        or paid_until is None
        or paid_until <= start
        or is_trial
    ):
        return None
    evidence = {"customer": snapshot.customer, "subscription": snapshot.id, "provider": account.provider}
    if snapshot.invoice is not None:
        evidence["invoice"] = snapshot.invoice
    return Finding(
        kind=UNSERVED_PAYMENT,
        subject=subject_of(snapshot.id),
        summary=f"{snapshot.id} at {account.provider} was paid and then cancelled, as its tenant had left: refund it",
        evidence=tuple(Evidence(name=name, value=value) for name, value in evidence.items()),
        tenant_id=account.id,
        command=f"paybill tenant show {account.id}",
    )


def _command(fact: LeftoverFound) -> str:
    """Returns the command that helps: a link at which a subscription can be cancelled, else the state of the tenant.

    Other objects can be removed only with the provider's own tools.
    """
    match fact.kind:
        case LeftoverKind.SUBSCRIPTION:
            return f"paybill tenant portal {fact.tenant_id}"
        case LeftoverKind.CHECKOUT | LeftoverKind.SCHEDULE | LeftoverKind.INVOICE_ITEM:
            return f"paybill tenant show {fact.tenant_id}"
        case _:
            assert_never(fact.kind)
