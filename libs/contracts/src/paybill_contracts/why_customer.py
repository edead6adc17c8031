"""Causes that the customer ends: a missing or failed payment, a debt, a pause; and the return of a tenant that left."""

from collections.abc import Iterator

from paybill_contracts.why import (
    ENTITLING,
    LEFT,
    BillingState,
    Case,
    Cause,
    SubscriptionState,
    TenantState,
    part_of,
    time_text,
)


def retained(case: Case, tenant: TenantState) -> str:
    """Returns since when, why and until when the data of a tenant that left is kept, and whether it can return."""
    part = part_of(case.parts, "tenant")
    facts = {fact.type: fact for fact in part.facts} if part else {}
    left, kept = facts.get("tenant.offboarding_started"), facts.get("tenant.tenant_retained")
    since = f" since {time_text(kept.at)}" if kept else ""
    until = time_text(tenant.retain_until) if tenant.retain_until else "-"
    reason = left.sentence if left and left.sentence else f"data kept until {until}"
    ruled_out = facts.get("tenant.return_ruled_out")
    returns = _return(case, tenant, ruled_out.sentence if ruled_out else "")
    return "; ".join([f"{tenant.slug} is retained{since}: {reason}", *returns])


def _return(case: Case, tenant: TenantState, ruled_out: str) -> Iterator[str]:
    """Yields how the tenant returns, and what is in its way. ruled_out: why it cannot, after billing offboarded it."""
    account = case.account
    as_new = "to return, the customer signs up as a new tenant, because"
    if account is not None and account.debt:
        yield f"the customer owes {account.debt}"
    if account is None:
        yield "only billing, which does not answer, knows whether it can return"
    elif account.leaving and ruled_out:
        yield f"{as_new} {ruled_out}"
    elif account.leaving:
        yield f"{as_new} an operator's offboarding is final"
    elif account.is_customer_deleted:
        yield f"{as_new} {account.customer} was deleted at {account.provider}"
    elif account.subscriptions:
        yield "it returns when a subscription gives access"
    else:
        first = "paying its debt and then " if _is_sold_nothing(account) else ""
        yield f"the customer returns by {first}subscribing again at its checkout"
        for hold in tenant.holds:
            if hold.origin == "operator":
                yield f"an operator's hold stays in force: {hold.reason}"


def return_command(case: Case) -> str | None:
    """Returns the command with which a tenant that left returns; None when it cannot."""
    account = case.account
    if case.status != "retained" or account is None or account.leaving or account.is_customer_deleted:
        return None
    if account.subscriptions:
        return None
    return _checkout(case, account)


def pauses(case: Case) -> str:
    """Returns the pauses that take no access, as the end of a headline; empty without any."""
    account = case.account
    paused = [each for each in account.subscriptions if each.pause and each.access in ENTITLING] if account else []
    return "".join(f"; {each.provider_object} is paused ({each.pause}), which takes no access" for each in paused)


def payment(case: Case) -> Iterator[Cause]:
    """Yields what the customer has to do for access. A debt of earlier subscriptions is last: it takes no access."""
    account = case.account
    if account is None or account.leaving:
        return
    for subscription in account.subscriptions:
        yield from _unpaid(case, account, subscription)
    debt = []
    if account.debt and case.status not in LEFT and not any(each.debt for each in account.subscriptions):
        debt = [Cause("debt", "billing", f"the customer owes {account.debt}", _debt_command(case, account))]
    if _is_sold_nothing(account):
        yield from debt
    if case.awaits_payment and not account.subscriptions and account.status == "open":
        yield from _not_subscribed(case, account)
    if not _is_sold_nothing(account):
        yield from debt


def _is_sold_nothing(account: BillingState) -> bool:
    return bool(account.debt) and not account.sells_with_debt and account.provider != "manual"


def _debt_command(case: Case, account: BillingState) -> str:
    return f"paybill tenant show {case.name}" if account.provider == "manual" else f"paybill tenant portal {case.name}"


def _not_subscribed(case: Case, account: BillingState) -> Iterator[Cause]:
    is_new = case.tenant is None or all(hold.origin != "billing" for hold in case.tenant.holds)
    deleted = f"{account.customer} was deleted at {account.provider}"
    if not is_new:
        # The customer is known: a subscription of another one is not the reason.
        waits_until = case.tenant.waits_until if case.tenant else None
        until = f"; offboarding begins at {time_text(waits_until)}" if waits_until else ""
        command, because = _checkout(case, account), tuple[str, ...]()
        if account.is_customer_deleted:
            command = f"paybill tenant show {case.name}"
            because = (f"{deleted}: to return, the customer signs up as a new tenant",)
        yield Cause("subscription_ended", "billing", f"the last subscription ended{until}", command, because)
        return
    if account.is_customer_deleted:
        give_up = f'paybill tenant offboard {case.name} --reason "the customer was deleted"'
        because = ("the command frees the slug, so that the customer can sign up again",)
        yield Cause("customer_deleted", "billing", f"{deleted} before it paid", give_up, because)
        return
    if account.checkout_expired:
        yield Cause("checkout_expired", "billing", "the checkout expired before it was paid", _checkout(case, account))
        return
    # A customer that pays as another one does it after the sign-up; a subscription from before may be of anybody.
    yield from _strangers(case, account, before_sign_up=False)
    if account.provider == "manual":
        yield Cause("not_paid", "billing", "nobody has ordered yet", f"paybill manual offer {case.name}")
    else:
        found = f"nobody has paid at {account.checkout_url or 'the checkout'} yet"
        yield Cause("not_paid", "billing", found, _checkout(case, account))
    yield from _strangers(case, account, before_sign_up=True)


def _strangers(case: Case, account: BillingState, *, before_sign_up: bool) -> Iterator[Cause]:
    """Yields objects of customers without a tenant: those that arrived before the sign-up, or the others."""
    began = case.tenant.requested_at if case.tenant else None
    for stranger in account.strangers:
        is_before = began is not None and stranger.since is not None and stranger.since < began
        if is_before is before_sign_up:
            whose = f"belongs to {stranger.customer}, and no tenant has this customer"
            found = f"{stranger.object} of {stranger.provider} {whose}"
            yield Cause("unknown_customer", "billing", found, "paybill webhook waiting")


def _checkout(case: Case, account: BillingState) -> str:
    """Returns the command with which the customer buys, or pays the debt before which nothing is sold."""
    if _is_sold_nothing(account):
        return _debt_command(case, account)
    return (
        f"paybill manual offer {case.name}" if account.provider == "manual" else f"paybill tenant checkout {case.name}"
    )


def _unpaid(case: Case, account: BillingState, subscription: SubscriptionState) -> Iterator[Cause]:
    failed = account.failed_payment
    command = f"paybill tenant portal {case.name}"
    if account.provider == "manual":
        command = f"paybill subscription show {subscription.id}"
    match subscription.access:
        case "pending" | "grace":
            detail = f"attempt {failed.attempt} to collect {failed.amount} failed" if failed else "no payment succeeded"
            until = f", access ends at {time_text(subscription.grace_until)}" if subscription.grace_until else ""
            found = f"{subscription.provider_object} is {subscription.provider_status}: {detail}{until}"
            yield Cause("card_declined", "billing", found, command)
        case "suspended":
            debt = f", {subscription.debt} is overdue" if subscription.debt else ""
            found = f"{subscription.provider_object} is {subscription.provider_status}{debt}: access was taken"
            yield Cause("debt", "billing", found, command)
        case "paused":
            yield _paused(case, account, subscription, f"{subscription.provider_object} is paused")
        case "active" | "trialing" if subscription.debt:
            yield Cause("debt", "billing", f"{subscription.debt} is overdue", command)
    if subscription.pause and subscription.access in {"grace", "suspended"}:
        found = f"no invoice of {subscription.provider_object} is collected: it is paused ({subscription.pause})"
        yield _paused(case, account, subscription, found)


def _paused(case: Case, account: BillingState, subscription: SubscriptionState, found: str) -> Cause:
    because = tuple[str, ...]()
    if subscription.provider_status == "paused" and account.provider != "manual":
        # After a trial without a card, Stripe cannot resume before the customer has one.
        because = (f"without a card it cannot be resumed; the customer adds one: paybill tenant portal {case.name}",)
    command = f'paybill subscription resume {subscription.id} --reason "the pause is over"'
    return Cause("paused", "billing", found, command, because)
