"""Reversals of payments in histories: refunds, and disputes of the customer's bank."""

from typing import Any

from history_checks import received, returned
from history_world import World
from paybill_billing.subscriptions.domain import changes
from paybill_billing.subscriptions.tables import CHANGES


def reversals(world: World) -> list[Any]:
    """Returns the refunds, and the disputes that the customer may win or has won."""
    return [*world.stripe.all("refund"), *(each for each in world.stripe.all("dispute") if each["status"] != "won")]


def _reversible(world: World) -> list[tuple[Any, int]]:
    """Returns the charges that can be refunded or disputed, each with what was neither returned nor credited.

    None while a confirmed change is being made, which may credit them; a quote is checked again.
    """
    if any(each.status is changes.Status.CONFIRMED for each in world.billing.all(CHANGES)):
        return []
    undecided = sum(each["amount"] for each in _undecided(world))
    total = sum(each.minor for each in received(world)) - sum(each.minor for each in returned(world)) - undecided
    charges = [each for each in world.stripe.all("charge") if each["paid"] and not each["disputed"]]
    left = [(charge, min(total, charge["amount"] - charge["amount_refunded"])) for charge in charges]
    return [(charge, amount) for charge, amount in left if amount > 0]


def _undecided(world: World) -> list[Any]:
    return [each for each in world.stripe.all("dispute") if each["status"] not in {"won", "lost"}]


async def refund(world: World) -> None:
    """Somebody refunds a charge, in part or what is left of it, but not what was or is being credited."""
    if left := _reversible(world):
        charge, amount = world.random.choice(left)
        await world.stripe.post("/v1/refunds", charge=charge["id"], amount=world.random.randint(1, amount))


async def dispute(world: World) -> None:
    """A bank disputes a charge of which nothing was credited, or decides a dispute."""
    if undecided := _undecided(world):
        outcome = world.random.choice(["won", "lost"])
        await world.stripe.post(f"/fake/disputes/{undecided[0]['id']}/close", outcome=outcome)
        return
    charges = [charge for charge, amount in _reversible(world) if amount == charge["amount"]]
    if charges:
        await world.stripe.post(f"/fake/charges/{world.random.choice(charges)['id']}/dispute", reason="fraudulent")
