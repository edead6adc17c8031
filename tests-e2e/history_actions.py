"""Random actions of operators, customers and the provider, and the histories that they make."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

from history_checks import customers
from history_reversals import dispute, refund, reversals
from history_world import DAY_S, SUPPORT, TENANT, World
from memory_stripe import StripeRefusedError
from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.providers.port import ProviderRefusedError, Purchase, price_of
from paybill_billing.subscriptions.domain import accounts, change_requests, changes
from paybill_billing.subscriptions.domain.change_requests import ChangeIntent
from paybill_billing.subscriptions.tables import ACCOUNTS, CHANGES, SUBSCRIPTIONS
from paybill_contracts.changes import ChangeKind
from paybill_contracts.errors import DomainError
from paybill_contracts.personal import Personal
from paybill_contracts.tenant import Source, SuspensionMode
from paybill_tenant.domain import holds, offboarding, signups
from paybill_tenant.domain.signup_options import PAYMENTS, PLANS, REGIONS
from paybill_tenant.tables import SIGNUP_OPTIONS

RUNNING = {"active", "trialing", "past_due", "unpaid", "paused"}
PAUSES = ("void", "keep_as_draft", "mark_uncollectible")


@dataclass(frozen=True, slots=True)
class Step:
    """An action of a history. seed: of its parameters, and of all delays until the next action."""

    name: str
    seed: int


async def sign_up(world: World) -> None:
    """A customer signs up; most pay at once."""
    await request(world, world.random.choices(["team", "pro", "trial"], [5, 2, 2])[0])
    if world.random.random() < 0.9:
        await pay(world)


async def request(world: World, plan: str) -> None:
    """Requests the tenant, and waits for its checkout."""
    options = {name: world.tenant.state(SIGNUP_OPTIONS, name) for name in (PLANS, REGIONS, PAYMENTS)}
    world.decide_tenant(
        lambda _: signups.request(
            options[PLANS],
            options[REGIONS],
            tenant_id=TENANT,
            slug="acme",
            name="Acme Inc",
            plan=plan,
            region="eu-central",
            contact_email=Personal[str](key=f"tenant/{TENANT}", sealed="A" * 60),
            source=Source.API,
            payments=options[PAYMENTS],
            valid_until=world.now.replace(microsecond=0) + timedelta(days=30),
        )
    )
    await world.run_for(120)


async def pay(world: World) -> None:
    """The customer pays at its checkout."""
    sessions = [each for each in world.stripe.all("checkout.session") if each["status"] == "open"]
    if not sessions:
        return
    outcome = world.random.choices(["succeed", "fail"], [9, 1])[0]
    await world.stripe.post(f"/fake/checkout/{sessions[-1]['id']}/pay", outcome=outcome)


async def open_checkout(world: World) -> None:
    """An operator opens a checkout for a tenant without a subscription."""
    account = world.billing.state(ACCOUNTS, TENANT)
    held = [state.subscription for state in world.billing.all(SUBSCRIPTIONS)]
    customer = accounts.require_checkout(account, held)
    known = world.billing.state(CATALOGUES, catalogue.CATALOGUE)
    plan = catalogue.published(known, account.plan, account.plan_version).plan
    terms = accounts.sold_terms(account, is_first=not held)
    sold = price_of(plan, terms)
    purchase = Purchase(
        TENANT,
        customer,
        known.on_sale.product,
        accounts.sold_plan(account, plan, is_first=not held),
        account.checkout,
        terms,
        catalogue.metered_prices(known, plan, sold, account.provider),
    )
    opened = await world.provider.checkout(purchase, f"checkout/{account.checkout}")
    world.billing.decide(
        lambda unit, _: unit.record(
            ACCOUNTS, TENANT, accounts.checkout_opened(unit.get(ACCOUNTS, TENANT), opened, held)
        ),
        [ACCOUNTS.key(TENANT)],
    )


async def subscribe(world: World) -> None:
    """The customer subscribes to a plan at Stripe, beside what it has or after its end."""
    prices = price_ids(world)
    await _subscribe(world, prices[world.random.choice(["team", "pro"])], prices["calls"])


async def subscribe_to_other(world: World) -> None:
    """The customer subscribes to something that belongs to no plan."""
    await _subscribe(world, price_ids(world)[SUPPORT])


def price_ids(world: World) -> dict[str, str]:
    """Returns the prices at Stripe by their lookup keys."""
    return {price["lookup_key"]: price["id"] for price in world.stripe.all("price")}


async def _subscribe(world: World, *prices: str) -> None:
    """Subscribes with the customer's card; with a new one if it has none."""
    for customer in customers(world):
        cards = [card["id"] for card in world.stripe.all("payment_method") if card["customer"] == customer["id"]]
        if not cards:
            cards = (await world.stripe.post(f"/fake/customers/{customer['id']}/payment", outcome="succeed"))["cards"]
        items = [{"price": price} for price in prices]
        about = {"items": items, "default_payment_method": cards[0]}
        await world.stripe.post("/v1/subscriptions", customer=customer["id"], **about)


async def switch_card(world: World) -> None:
    """The customer's card begins to fail, or to work again."""
    await set_card(world, world.random.choice(["succeed", "fail"]))


async def set_card(world: World, outcome: str) -> None:
    """Sets the outcome of charges to the customer's card."""
    for customer in customers(world):
        await world.stripe.post(f"/fake/customers/{customer['id']}/payment", outcome=outcome)


async def fail_renewal(world: World) -> None:
    """The customer's card fails until after the next renewal."""
    await set_card(world, "fail")
    await world.run_for(world.random.uniform(28, 50) * DAY_S)


async def recover(world: World) -> None:
    """The customer's card works again, and it pays what it owes."""
    await set_card(world, "succeed")
    for invoice in world.stripe.all("invoice"):
        if invoice["status"] == "open":
            await world.stripe.post(f"/fake/invoices/{invoice['id']}/pay", outcome="succeed")


async def pay_invoice(world: World) -> None:
    """The customer pays an open invoice, or its payment fails once more."""
    unpaid = [each for each in world.stripe.all("invoice") if each["status"] == "open"]
    if unpaid:
        outcome = world.random.choices(["succeed", "fail"], [3, 1])[0]
        await world.stripe.post(f"/fake/invoices/{world.random.choice(unpaid)['id']}/pay", outcome=outcome)


async def cancel_at_stripe(world: World) -> None:
    """The customer cancels in the portal, now or at the end of the period, or changes its mind."""
    if (subscription := _running(world)) is None:
        return
    path = f"/v1/subscriptions/{subscription['id']}"
    match world.random.choice(["now", "later", "keep"]):
        case "now":
            await end(world, subscription)
        case "later":
            await world.stripe.post(path, cancel_at_period_end=True)
        case _:
            await world.stripe.post(path, cancel_at_period_end=False)


def _running(world: World) -> Any:
    """Returns a subscription that has not ended at Stripe."""
    running = [each for each in world.stripe.all("subscription") if each["status"] in RUNNING]
    return world.random.choice(running) if running else None


async def end(world: World, subscription: Any) -> None:
    """Ends a subscription at Stripe at once, without an invoice."""
    await world.stripe.delete(f"/v1/subscriptions/{subscription['id']}")
    world.ended_by_customer.add(subscription["id"])


async def replace_at_stripe(world: World) -> None:
    """The customer cancels one subscription and creates the next."""
    if (subscription := _running(world)) is not None:
        await end(world, subscription)
        await subscribe(world)


async def pause_at_stripe(world: World) -> None:
    """Somebody pauses the collection of payments at Stripe, or resumes it."""
    if (subscription := _running(world)) is None:
        return
    paused = subscription["pause_collection"]
    behaviour: Any = "" if paused else {"behavior": world.random.choice(PAUSES)}
    await world.stripe.post(f"/v1/subscriptions/{subscription['id']}", pause_collection=behaviour)


async def add_seats_at_stripe(world: World) -> None:
    """Somebody changes the quantity at Stripe, which also credits what nobody paid: only where all is paid."""
    subscription, invoices = _running(world), world.stripe.all("invoice")
    is_paid = all(each["status"] == "paid" for each in invoices) and not reversals(world)
    if subscription is not None and is_paid and not subscription["pause_collection"]:
        item = subscription["items"]["data"][0]["id"]
        quantity = world.random.randint(1, 5)
        await world.stripe.post(
            f"/v1/subscription_items/{item}", quantity=quantity, proration_behavior="always_invoice"
        )


async def add_invoice_item(world: World) -> None:
    """Somebody adds something to the customer's next invoice."""
    for customer in customers(world):
        await world.stripe.post("/v1/invoiceitems", customer=customer["id"], amount=700, currency="eur")


async def schedule(world: World) -> None:
    """Somebody schedules a subscription that begins later."""
    starts = int(world.now.timestamp()) + world.random.randint(1, 40) * DAY_S
    price = price_ids(world)[world.random.choice(["team", "pro"])]
    for customer in customers(world):
        phase = {"items": [{"price": price, "quantity": 1}], "iterations": world.random.randint(1, 2)}
        about = {"start_date": starts, "end_behavior": world.random.choice(["release", "cancel"]), "phases": [phase]}
        await world.stripe.post("/v1/subscription_schedules", customer=customer["id"], **about)


async def leave_with_schedule(world: World) -> None:
    """The customer leaves, by itself or by an operator, with a subscription that has not begun; its start passes."""
    await schedule(world)
    await world.run_for(world.random.choice([0, 5, DAY_S]))
    if world.random.random() < 0.3:
        await offboard(world)
    else:
        for each in world.stripe.all("subscription"):
            if each["status"] in RUNNING:
                await end(world, each)
    await world.run_for(world.random.choice([0, 45]) * DAY_S)


async def delete_customer(world: World) -> None:
    """Somebody deletes the customer at Stripe, which ends its subscriptions."""
    world.ended_by_customer |= {each["id"] for each in world.stripe.all("subscription") if each["status"] in RUNNING}
    for customer in customers(world):
        await world.stripe.delete(f"/v1/customers/{customer['id']}")


async def use(world: World) -> None:
    """The tenant uses the metered feature."""
    if world.billing.state(ENTITLEMENTS, TENANT) is not None:
        for _ in range(world.random.randint(1, 3)):
            world.use(world.random.randint(1, 30))


async def change(world: World, *, confirmed: bool = True) -> None:
    """An operator requests a change of the subscription from billing, and confirms the quote at once."""
    running = [state for state in world.billing.all(SUBSCRIPTIONS) if state.subscription.access != "ended"]
    if not running:
        return
    state = world.random.choice(running)
    kind = world.random.choices(list(ChangeKind), [6 if each is ChangeKind.PLAN else 1 for each in ChangeKind])[0]
    plan, quantity = None, None
    if kind is ChangeKind.PLAN:
        plan = world.random.choice([None, "team", "pro"])
        quantity = world.random.choice([None, 1, 2, 5])
    at_period_end = world.random.random() < 0.3
    intent = ChangeIntent(kind, at_period_end=at_period_end, plan=plan, quantity=quantity)
    change_id = f"chg_{world.random.getrandbits(128):032x}"
    held = [each for each in world.billing.all(CHANGES) if each.subscription_id == state.id]
    open_change = next((each.id for each in held if each.status in changes.OPEN), None)
    account = world.billing.state(ACCOUNTS, TENANT)

    def decide(unit: Any, _: Any) -> None:
        known = catalogue.existing(unit.get(CATALOGUES, catalogue.CATALOGUE))
        subscription = unit.get(SUBSCRIPTIONS, state.id).subscription
        wanted = change_requests.resolve(known, subscription, intent, leaving=account.leaving)
        about = {"change_id": change_id, "confirmed": confirmed, "reason": "asked by phone", "open_change": open_change}
        unit.record(CHANGES, change_id, changes.request(None, subscription, wanted, **about))

    reads = [CATALOGUES.key(catalogue.CATALOGUE), SUBSCRIPTIONS.key(state.id)]
    world.billing.decide(decide, [CHANGES.key(change_id)], reads)


async def confirm_later(world: World) -> None:
    """An operator requests a quote, something happens at Stripe, and the operator confirms it."""
    await change(world, confirmed=False)
    await world.run_for(30)
    await world.random.choice([refund, dispute, pause_at_stripe, add_seats_at_stripe])(world)
    await world.run_for(world.random.choice([0, 60]))
    for quoted in [each for each in world.billing.all(CHANGES) if each.status is changes.Status.QUOTED]:

        def decide(unit: Any, at: Any, id_: str = quoted.id) -> None:
            found = changes.existing(unit.get(CHANGES, id_), id_)
            wanted, state = found.wanted, unit.get(SUBSCRIPTIONS, found.subscription_id)
            terms = {"at_period_end": wanted.at_period_end, "without_proration": wanted.without_proration}
            change_requests.check_allowed(state.subscription, wanted.kind, **terms)
            unit.record(CHANGES, id_, changes.confirm(found, found.quote.quote_hash, at.now))

        world.billing.decide(decide, [CHANGES.key(quoted.id)], [SUBSCRIPTIONS.key(quoted.subscription_id)])


async def suspend(world: World) -> None:
    """An operator suspends the tenant, or resumes it."""
    mode, reason = world.random.choice(list(SuspensionMode)), world.random.choice(["abuse", "audit"])
    if world.random.random() < 0.5:
        world.decide_tenant(lambda tenant: holds.suspend(tenant, mode, reason))
    else:
        world.decide_tenant(holds.resume)


async def hold_legally(world: World) -> None:
    """An operator places a legal hold, or releases it."""
    case = world.random.choice(["2026-17", "2026-18"])
    verb = world.random.choice([holds.place_legal_hold, holds.release_legal_hold, holds.release_legal_hold])
    world.decide_tenant(lambda tenant: verb(tenant, case))


async def offboard(world: World) -> None:
    """An operator offboards the tenant."""
    world.decide_tenant(lambda tenant: offboarding.offboard(tenant, "asked to leave", world.now))


async def wait(world: World) -> None:
    """Time passes: hours, days, or more than a period."""
    await world.run_for(
        world.random.choice([3600, DAY_S, 3 * DAY_S, 8 * DAY_S, 32 * DAY_S]) * world.random.uniform(0.5, 1)
    )


ACTIONS: dict[Callable[[World], Awaitable[None]], int] = {
    pay: 6,
    open_checkout: 5,
    subscribe: 8,
    subscribe_to_other: 3,
    switch_card: 3,
    fail_renewal: 5,
    recover: 5,
    pay_invoice: 3,
    cancel_at_stripe: 5,
    replace_at_stripe: 3,
    pause_at_stripe: 4,
    add_seats_at_stripe: 2,
    refund: 3,
    dispute: 3,
    add_invoice_item: 2,
    schedule: 3,
    leave_with_schedule: 3,
    delete_customer: 1,
    use: 8,
    change: 10,
    confirm_later: 6,
    suspend: 3,
    hold_legally: 2,
    offboard: 1,
    wait: 12,
}
"""The actions, each with its weight."""
_BY_NAME = {action.__name__: action for action in (*ACTIONS, sign_up)}
_REFUSALS = (DomainError, StripeRefusedError, ProviderRefusedError)


def random_steps(seed: str) -> list[Step]:
    """Returns the actions of a random history: a sign-up, and up to 9 more."""
    random = Random(seed)
    names = [action.__name__ for action in ACTIONS]
    chosen = random.choices(names, list(ACTIONS.values()), k=random.randint(3, 9))
    return [Step(name, random.getrandbits(32)) for name in ("sign_up", *chosen)]


async def play(steps: list[Step]) -> World:
    """Plays a history, and returns the world after the last action. What is refused does not happen."""
    world = World("ids")
    await world.begin()
    for step in steps:
        world.random = Random(step.seed)
        try:
            await _BY_NAME[step.name](world)
        except _REFUSALS:
            world.refused += 1
        pause_s = world.random.choice([1, 30, 600, 3600, DAY_S])
        await world.run_for(world.random.uniform(0, pause_s))
    return world
