"""Checks of a world at rest: the seven invariants, the provider's money, and the states that describe both."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from history_world import NAME, START, SUPPORT, TENANT, World
from paybill_agent_gateway.tables import TENANTS as TENANTS_OF_AGENTS
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.statements.domain import Statement
from paybill_billing.statements.tables import STATEMENTS
from paybill_billing.subscriptions.domain.credits import excess_credit
from paybill_billing.subscriptions.domain.entitling import entitling_subscriptions
from paybill_billing.subscriptions.domain.subscriptions import subscription_id
from paybill_billing.subscriptions.tables import ACCOUNTS, SUBSCRIPTIONS
from paybill_billing.usage.domain.billing_periods import open_from
from paybill_billing.usage.domain.invoices import compare
from paybill_billing.usage.tables import BILLING_PERIODS, CLOSED_WINDOWS
from paybill_contracts.money import Money
from paybill_contracts.payments import DisputeClosed, PaymentDisputed, PaymentRefunded
from paybill_tenant.domain.tenants import LEFT, Status
from paybill_tenant.tables import TENANTS

CHARGING = {"active", "trialing", "past_due"}


async def faults_of(world: World) -> list[str]:
    """Brings the world to rest, and returns what does not hold there, or did not for too long before.

    A reconciliation alone repairs states; refunds and disputes that were never delivered need the redelivery poll.
    """
    await world.rest()
    await world.reconcile()
    found = [
        f"after a reconciliation, {text}"
        for number, text in own_violations(world).items()
        if number != 5 or not is_unbilled(world)
    ]
    await world.poll()
    # Hours pass during the poll, so that a subscription may end there: what is unbilled is decided after it.
    lasting = [text for number, text in sorted(world.lasting) if number != 5 or not is_unbilled(world)]
    return [*found, *await violations(world), *wrong_money(world), *wrong_states(world), *lasting]


def own_violations(world: World) -> dict[int, str]:
    """Returns the invariants that the services find violated, by their number."""
    found: dict[int, str] = {}
    for service in world.services:
        found |= service.differences(TENANT)
    return found


async def violations(world: World) -> list[str]:
    """Returns the invariants that do not hold, each as its number and both sides."""
    found = own_violations(world)
    for paid, credited in ((charged(world), prorated(world)), (received(world), returned(world))):
        if 4 not in found and (excess := excess_credit(paid, credited)):
            found[4] = f"more was credited than received: {excess}"
    wrong = await wrongly_invoiced(world)
    if wrong and 5 not in found:
        found[5] = f"usage and invoices differ, and billing does not see it: {wrong}"
    return [f"{number}: {text}" for number, text in sorted(found.items()) if number != 5 or not is_unbilled(world)]


def received(world: World) -> list[Money]:
    """Returns the payments at the provider."""
    return [_money(charge["amount"], charge) for charge in world.stripe.all("charge") if charge["paid"]]


def customers(world: World) -> list[Any]:
    """Returns the customers that were not deleted at the provider."""
    return [each for each in world.stripe.all("customer") if not each.get("deleted")]


def balances(world: World) -> list[int]:
    """Returns the balance of each customer; that of a deleted one was not paid back, and stays what it was."""
    held = [event["data"]["object"] for event in world.stripe.all("event") if event["type"] == "customer.deleted"]
    return [each["balance"] for each in (*customers(world), *held)]


def charged(world: World) -> list[Money]:
    """Returns what invoices charge that are paid, also by credit."""
    lines = [line for invoice in _invoices(world) if invoice["status"] == "paid" for line in invoice["lines"]["data"]]
    return [_money(line["amount"], line) for line in lines if line["amount"] > 0]


def prorated(world: World) -> list[Money]:
    """Returns the credits for time that was paid and not used, on invoices and on the next ones."""
    lines = [line for invoice in _invoices(world) for line in invoice["lines"]["data"]]
    pending = [each for each in world.stripe.all("invoiceitem") if each["invoice"] is None]
    return [_money(-each["amount"], each) for each in (*lines, *pending) if each["amount"] < 0]


def returned(world: World) -> list[Money]:
    """Returns the refunds, the lost disputes, and what is left of the credits to the customer's balance."""
    credit = [Money(minor=-each, currency="EUR") for each in balances(world) if each < 0]
    return credit + [_money(each["amount"], each) for each in (*_refunds(world), *_lost(world))]


async def wrongly_invoiced(world: World) -> list[str]:
    """Returns the usage that is not on the provider's invoices as it was recorded."""
    account = world.billing.state(ACCOUNTS, TENANT)
    if account is None or account.customer is None:
        return []
    lines = await world.provider.invoiced(account.customer, START - timedelta(days=1))
    period = world.billing.state(BILLING_PERIODS, TENANT)
    ended = period is not None and period.final
    compared = compare(world.billing.all(CLOSED_WINDOWS), lines, ended=ended, open_from=open_from(period))
    return [
        f"from {each.start:%m-%d %H:%M} {each.reported} were reported, and {each.invoiced} are on {each.invoice}"
        for each in compared
        if each.differs
    ]


def is_unbilled(world: World) -> bool:
    """Returns True when usage is on no invoice by a decision at Stripe (docs/usage.md).

    A subscription ended without us, or its invoices are void because somebody paused the collection.
    """
    gave_up = (each["cancellation_details"]["reason"] == "payment_failed" for each in world.stripe.all("subscription"))
    is_void = (each["status"] == "void" for each in world.stripe.all("invoice"))
    return bool(world.ended_by_customer) or any(gave_up) or any(is_void)


def wrong_money(world: World) -> list[str]:
    """Returns the amounts at the provider that the facts of billing do not have."""
    facts = [fact.event for fact in world.billing.facts]
    statement = world.billing.state(STATEMENTS, TENANT) or Statement(TENANT)
    at_provider = {
        "received": sum(each.minor for each in received(world)),
        "left as credit": -sum(balances(world)),
        "refunded": sum(each["amount"] for each in _refunds(world)),
        "disputed": sum(each["amount"] for each in world.stripe.all("dispute")),
        "lost": sum(each["amount"] for each in _lost(world)),
    }
    known = Counter(dict.fromkeys(at_provider, 0))
    known["received"] = sum(each.minor for each in statement.received)
    known["left as credit"] = sum(each.minor for each in statement.credit)
    # Invoices of a subscription to no plan request no check of the statement: it is as old as the last one of a plan.
    has_other = not all(map(is_of_plan, world.stripe.all("subscription")))
    stale = {"received", "left as credit"} if has_other else set()
    for fact in facts:
        match fact:
            case PaymentRefunded():
                known["refunded"] += fact.amount.minor
            case PaymentDisputed():
                known["disputed"] += fact.amount.minor
            case DisputeClosed(outcome="lost"):
                known["lost"] += fact.amount.minor
    return [
        f"{amount} are {name} at the provider, and {known[name]} in facts"
        for name, amount in at_provider.items()
        if known[name] != amount and name not in stale
    ]


def wrong_states(world: World) -> Iterator[str]:
    """Returns the states that contradict the provider's subscriptions."""
    tenant = world.tenant.state(TENANTS, TENANT)
    account = world.billing.state(ACCOUNTS, TENANT)
    for there in world.stripe.all("subscription"):
        name, status = there["id"], there["status"]
        here = world.billing.state(SUBSCRIPTIONS, subscription_id(NAME, name))
        if here is not None and here.subscription.provider_status != status:
            yield f"{name} is {status}, and {here.subscription.provider_status} here"
        if here is None and status in CHARGING and is_of_plan(there) and not account.is_gone:
            yield f"{name} is {status}, and unknown here"
        if tenant.status in LEFT and status in CHARGING:
            yield f"{name} is {status}, and its tenant is {tenant.status}"
    if tenant.status in LEFT:
        yield from pending_charges(world)
    agents = world.agent_gateway.state(TENANTS_OF_AGENTS, TENANT).status
    if (agents == "running") != (tenant.status in {Status.ACTIVE, Status.CHANGING}):
        yield f"its tenant is {tenant.status}, and {agents} for its agents"
    entitled = world.billing.state(ENTITLEMENTS, TENANT)
    entitling = entitling_subscriptions(state.subscription for state in world.billing.all(SUBSCRIPTIONS))
    allows = entitled is not None and entitled.allows_access
    if allows != bool(entitling) and not account.leaving:
        yield f"{len(entitling)} subscriptions give access, and the entitlements allow {allows}"
    for service in world.services:
        for job in service.jobs:
            yield f"the effect {job.effect.name} waits: {job.error}"


def pending_charges(world: World) -> Iterator[str]:
    """Returns what can still charge the customer without a subscription."""
    for kind, status in (("checkout.session", "open"), ("subscription_schedule", "not_started")):
        for each in world.stripe.all(kind):
            if each["status"] == status:
                yield f"{each['id']} is {status}, and its tenant left"
    held = {each["id"] for each in customers(world)}
    for item in world.stripe.all("invoiceitem"):
        if item["invoice"] is None and item["customer"] in held:
            yield f"{item['id']} is pending, and its tenant left"


def is_of_plan(subscription: Any) -> bool:
    """Returns True for a subscription to a plan of the catalogue."""
    return all(item["price"]["lookup_key"] != SUPPORT for item in subscription["items"]["data"])


def _invoices(world: World) -> list[Any]:
    return [invoice for invoice in world.stripe.all("invoice") if invoice["status"] != "void"]


def _refunds(world: World) -> list[Any]:
    return [each for each in world.stripe.all("refund") if each["status"] == "succeeded"]


def _lost(world: World) -> list[Any]:
    return [each for each in world.stripe.all("dispute") if each["status"] == "lost"]


def _money(minor: int, holder: Any) -> Money:
    return Money(minor=minor, currency=holder["currency"].upper())
