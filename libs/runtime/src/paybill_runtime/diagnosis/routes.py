"""Routes of a service for operators who resolve problems."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter

from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.violations import Violations
from paybill_runtime.diagnosis import incident_routes, violation_routes, why_routes
from paybill_runtime.diagnosis.tenant_part import ReadState


def routes(
    context: ServiceContext,
    incidents: Incidents | None,
    violations: Violations | None,
    read_state: ReadState | None,
    health: Callable[[], dict[str, str]],
    lag: Callable[[], Awaitable[dict[str, int | None]]],
    bus_answers: Callable[[], Awaitable[bool]],
) -> list[APIRouter]:
    """Returns the routes of the parts that the service declares."""
    routers = []
    if incidents is not None:
        routers.append(incident_routes.routes(context, incidents))
    if violations is not None:
        routers.append(violation_routes.routes(context, violations))
    if read_state is not None:
        routers.append(why_routes.routes(context, read_state, health, lag, bus_answers, incidents, violations))
    return routers
