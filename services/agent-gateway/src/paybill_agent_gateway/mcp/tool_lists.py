"""Tools of an agent: those of its role in the bundle that is in force for its tenant."""

from collections.abc import Mapping
from typing import Any

from paybill_runtime.decisions.aggregates import Stored
from paybill_runtime.http.listing import load_state

from paybill_agent_gateway.act import Gate
from paybill_agent_gateway.domain.calls import CallCaller
from paybill_agent_gateway.domain.scenes import BundleNeed
from paybill_agent_gateway.tables import BUNDLES, IN_FORCE, TENANTS
from paybill_agent_gateway.tools import Tool, ToolCache


class ToolLists:
    """The tools of the agents of one process. No decision relies on them: `act` decides about each call."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._cache = ToolCache()

    async def tools(self, caller: CallCaller) -> Mapping[str, Tool]:
        """Returns the tools of an agent as they are now, by name."""
        return await self._tools(caller, is_fresh=True)

    async def tool(self, caller: CallCaller, name: str) -> Tool | None:
        """Returns a tool of an agent; None when it has no such tool now."""
        known = await self._tools(caller, is_fresh=False)
        return known.get(name) or (await self._tools(caller, is_fresh=True)).get(name)

    async def _tools(self, caller: CallCaller, *, is_fresh: bool) -> Mapping[str, Tool]:
        """Returns the tools. is_fresh: not those of states that were kept to plan with."""
        tenant = await self._state(TENANTS, caller.tenant_id, is_fresh=is_fresh)
        if tenant is None or tenant.agents is None or caller.role is None:
            return {}
        in_force = await self._state(IN_FORCE, tenant.agents.blueprint, is_fresh=is_fresh)
        if in_force is None:
            return {}
        compiled = self._gate.bundles.get(BundleNeed(in_force.bundle_hash))
        if compiled is not None:
            return self._cache.tools(in_force.bundle_hash, compiled.bundle, caller.role)
        published = await self._state(BUNDLES, in_force.bundle_hash, is_fresh=is_fresh)
        return {} if published is None else self._cache.tools(in_force.bundle_hash, published.content, caller.role)

    async def _state(self, stored: Stored[Any], id_: str, *, is_fresh: bool) -> Any:
        kept = None if is_fresh else self._gate.views.get(stored.key(id_))
        return kept if kept is not None else await load_state(self._gate.context, stored, id_)
