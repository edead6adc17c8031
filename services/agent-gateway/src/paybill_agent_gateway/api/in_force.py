"""Bundles that are in force, by their blueprints."""

from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.listing import load_state, state_column
from sqlalchemy import select

from paybill_agent_gateway.domain.bundles import PublishedBundle
from paybill_agent_gateway.tables import BUNDLES, IN_FORCE


async def bundles_in_force(context: ServiceContext) -> dict[str, PublishedBundle]:
    """Returns the bundles in force by the names of their blueprints."""
    active = [IN_FORCE.load(row.state) for row in await context.rows(select(state_column(IN_FORCE)))]
    found = {each.blueprint: await load_state(context, BUNDLES, each.bundle_hash) for each in active}
    return {name: bundle for name, bundle in found.items() if bundle is not None}
