"""Puts the service together."""

from paybill_runtime.app import Service

from paybill_tenant.api import router
from paybill_tenant.consumer import HANDLERS
from paybill_tenant.settings import Settings
from paybill_tenant.tables import STATES


def service() -> Service:
    """The tenant service. It calls nobody outside, so it has no work."""
    return Service(name="tenant", settings=Settings, states=STATES, subscriptions=HANDLERS, router=router)
