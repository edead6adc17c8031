"""Beginnings of histories: a sign-up, and a customer that paid."""

import history_actions
from history_checks import faults_of
from history_world import DAY_S, Network, World
from paybill_contracts.incidents import BillingIncidentOpened


async def requested() -> World:
    """Returns a world with a tenant that has a checkout, and without webhooks."""
    world = World("ids")
    await world.begin()
    await history_actions.request(world, "team")
    world.network = Network.DOWN
    return world


async def pay_at_checkout(world: World) -> None:
    """Pays at the checkout that is open."""
    session = next(each for each in world.stripe.all("checkout.session") if each["status"] == "open")
    await world.stripe.post(f"/fake/checkout/{session['id']}/pay", outcome="succeed")


async def at_rest(days: int = 0) -> World:
    """Returns the world of a customer that paid some days ago, with usage beyond what is included."""
    world = await requested()
    await pay_at_checkout(world)
    await world.poll()
    world.use(40)
    await world.run_for(days * DAY_S)
    assert await faults_of(world) == []
    return world


def incidents(world: World) -> list[BillingIncidentOpened]:
    """Returns the incidents that billing opened."""
    return [each.event for each in world.billing.facts if isinstance(each.event, BillingIncidentOpened)]
